import pytest
from pydantic import ValidationError

from dsa_doctor.facts.schema import Facts
from tests.dsa_doctor import facts_library as library


@pytest.mark.parametrize("make", [library.a100_facts, library.h100_facts, library.rtx4090_facts, library.gb10_facts])
def test_round_trip(make):
    facts = make()
    assert Facts.model_validate_json(facts.model_dump_json()) == facts
    assert facts.origin == "handwritten"


def test_a_file_without_a_probe_is_refused():
    content = library.a100_facts().model_dump(mode="json")
    del content["csrc"]
    with pytest.raises(ValidationError, match="csrc"):
        Facts.model_validate(content)
