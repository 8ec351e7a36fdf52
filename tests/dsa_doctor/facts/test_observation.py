import pytest
from pydantic import ValidationError

from dsa_doctor.facts.observation import Observation


def test_the_three_outcomes():
    assert Observation[str].ok("x").value == "x"
    assert Observation[str].absent("no driver").cause == "no driver"
    assert Observation[str].unknown("timed out").status == "unknown"


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "ok"},
        {"status": "ok", "value": None, "cause": "x"},
        {"status": "absent", "value": "x", "cause": "y"},
        {"status": "unknown"},
        {"status": "absent", "cause": ""},
        {"status": "green", "value": "x"},
    ],
)
def test_an_observation_that_says_nothing_is_refused(fields):
    with pytest.raises(ValidationError):
        Observation[str](**fields)


def test_false_is_a_value():
    assert Observation[bool].ok(False).value is False


def test_facts_do_not_change():
    with pytest.raises(ValidationError):
        Observation[str].ok("x").value = "y"


def test_a_newer_file_may_have_more_fields():
    assert Observation[str].model_validate({"status": "ok", "value": "x", "new_in_2.0": 1}).value == "x"
