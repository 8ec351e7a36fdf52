import pytest

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK
from dsa_doctor.catalog.targets import KNOWN_GPUS, find_gpu, target_from_text

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


@pytest.mark.parametrize("text", ["v200", "", "sm13", "3.5"])
def test_unknown_target_names_what_is_accepted(text):
    with pytest.raises(ValueError, match=r"Accepted: .*8\.0"):
        target_from_text(text)
