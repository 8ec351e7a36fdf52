"""Commands that a report tells its reader to run."""

import shlex

import pytest

from dsa_doctor.render.steps import remedy_of


@pytest.mark.parametrize("model", ["GLM-5-FP8", "my model", "a; touch x", "$(touch x)", "it's", "`touch x`", "-rf"])
def test_a_model_stands_in_a_command_as_one_word(model):
    remedy = remedy_of("dsa-doctor check MODEL --target a100   # names every layer", model)
    assert shlex.split(remedy.text) == ["dsa-doctor", "check", model, "--target", "a100"]
