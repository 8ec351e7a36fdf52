import pytest

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK
from dsa_doctor.catalog.targets import KNOWN_GPUS, find_gpu, target_from_text
from dsa_doctor.planner.estimates import usable_bytes

REQUIRED = [
    "a100",
    "a100-40gb",
    "a800",
    "a6000",
    "3090",
    "4090",
    "l40s",
    "h100",
    "h200",
    "h20",
    "b200",
    "5090",
    "rtx-pro-6000",
    "gb10",
]


@pytest.mark.parametrize("alias", REQUIRED)
def test_issue_aliases_are_known(alias):
    assert find_gpu(alias) is not None


def test_no_spelling_names_two_gpus():
    spellings = [spelling for gpu in KNOWN_GPUS for spelling in (gpu.alias, *gpu.others)]
    assert len(spellings) == len(set(spellings))
    for gpu in KNOWN_GPUS:
        for spelling in (gpu.alias, gpu.name, *gpu.others):
            assert find_gpu(spelling) is gpu


def test_every_gpu_has_its_shared_memory_in_the_table():
    assert {gpu.capability for gpu in KNOWN_GPUS} <= set(SHARED_MEMORY_PER_BLOCK)


@pytest.mark.parametrize("text", ["A100", "NVIDIA A100 80GB", "a100_80gb"])
def test_spelling_is_forgiving(text):
    assert target_from_text(text).alias == "a100"


def test_capability_as_target():
    assert target_from_text("sm86").capability == (8, 6)
    assert target_from_text("8.6").memory_gib is None


@pytest.mark.parametrize("text", ["v200", "", "sm13", "3.5", "a\xff100", "a\n100", "a100!", "a100\x00", "sm80;"])
def test_unknown_target_names_what_is_accepted(text):
    with pytest.raises(ValueError, match=r"Accepted: .*8\.0"):
        target_from_text(text)


@pytest.mark.parametrize(
    ("alias", "gib"),
    [
        ("l40s", 44.99), ("a40", 44.99), ("l20", 44.99), ("l4", 22.49), ("a10", 22.49), ("a100", 80.0),
        ("a100-40gb", 40.0), ("4090", 23.99), ("4090-48gb", 47.99), ("h100", 79.65), ("h200", 140.4),
        ("h20-3e", 140.4), ("rtx-pro-6000", 95.59), ("gb10", 121.69), ("thor", 122.8),
    ],
)  # fmt: skip
def test_memory_is_what_the_driver_reports_and_not_the_label(alias, gib):
    assert find_gpu(alias).memory_gib == gib


def test_every_figure_of_memory_has_its_source():
    assert all(gpu.memory_source for gpu in KNOWN_GPUS if gpu.memory_mib is not None)
    assert all(gpu.free_mib < gpu.memory_mib for gpu in KNOWN_GPUS if gpu.free_mib is not None)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA H20-3e",
        "NVIDIA GH200 144G HBM3e",
        "NVIDIA A800-SXM4-80GB",
    ],
)
def test_names_that_drivers_print_are_known(name):
    assert find_gpu(name) is not None


@pytest.mark.parametrize(
    ("alias", "least", "most"),
    [
        ("a100", 79.14, 79.33), ("h100", 78.85, 79.19), ("h200", 139.6, 139.82), ("l40s", 44.2, 44.53),
        ("4090", 23.5, 23.65), ("3090", 23.5, 23.69), ("l4", 21.96, 22.05), ("rtx-pro-6000", 94.8, 95.03),
    ],
)  # fmt: skip
def test_what_torch_can_use_is_what_out_of_memory_errors_call_the_total_capacity(alias, least, most):
    assert least <= usable_bytes(find_gpu(alias).memory_bytes) / 2**30 <= most


@pytest.mark.parametrize(("text", "meant"), [("a1000", "a100"), ("h10", "h100"), ("rtx-pro-600", "rtx-pro-6000")])
def test_a_mistyped_target_is_told_what_was_meant(text, meant):
    with pytest.raises(ValueError, match=rf"Did you mean [^?]*\b{meant}\b"):
        target_from_text(text)


def test_nothing_is_suggested_for_what_resembles_no_gpu():
    with pytest.raises(ValueError, match=r"is not known\. Accepted:"):
        target_from_text("zzz")
