"""The request of a launch, from what the user typed."""

import pytest

from dsa_doctor.catalog.lookup import find_geometry
from dsa_doctor.inputs import Options, named_target, request_for


@pytest.mark.parametrize(
    ("target", "ranks"), [("a100", 8), ("sm80", 8), ("gh200", 1), ("gb200", 4), ("gb10", 1), ("thor", 1)]
)
def test_ranks_are_those_of_a_usual_machine_with_that_gpu(target, ranks):
    gpu = named_target(target)
    assert request_for(find_geometry("GLM-5-FP8"), gpu, Options(target=target)).tensor_parallel_size == ranks


def test_ranks_that_are_asked_for_are_taken():
    asked = request_for(find_geometry("GLM-5-FP8"), named_target("gb10"), Options(tensor_parallel_size=2))
    assert asked.tensor_parallel_size == 2
