"""What the kernels ask of a compute capability, as one table: a changed answer is a changed row."""

import pytest

from dsa_doctor.catalog.capability import Capability
from dsa_kernels import targets

QUESTIONS = {
    "kernels": targets.has_kernels,
    "small": targets.has_small_shared_memory,
    "roomy": targets.has_roomy_shared_memory,
    "wgmma": targets.has_warpgroup_mma,
    "e4m3": targets.converts_fp8,
    "ga100": targets.is_ga100,
    "blackwell": targets.is_blackwell,
    "clusters": targets.launches_clusters,
}
ANSWERS = {
    70: "small",
    75: "small",
    80: "kernels ga100",
    86: "kernels small",
    87: "kernels",
    89: "kernels small e4m3",
    90: "kernels roomy wgmma e4m3 clusters",
    100: "kernels roomy e4m3 blackwell clusters",
    103: "kernels roomy e4m3 blackwell clusters",
    110: "kernels roomy e4m3 blackwell clusters",
    120: "kernels small e4m3 blackwell",
    121: "kernels small e4m3 blackwell",
}


@pytest.mark.parametrize("capability", ANSWERS)
def test_what_is_asked_of_a_capability(capability: int) -> None:
    assert " ".join(name for name, ask in QUESTIONS.items() if ask(capability)) == ANSWERS[capability]


def test_every_capability_of_the_table_has_its_row() -> None:
    assert set(targets.SHARED_MEMORY_LIMIT) <= set(ANSWERS)


@pytest.mark.parametrize("text", ["sm80", "sm_80", "8.0", "80", "sm90a", "12.1", "sm_120"])
def test_both_parsers_read_the_same(text: str) -> None:
    major, minor = Capability.parse(text)
    assert targets.parse_target(text) == 10 * major + minor


@pytest.mark.parametrize("text", ["", "8", "sm", "a100", "8.0.0", "99", "sm_70x"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="accepted: one of sm80"):
        targets.parse_target(text)
