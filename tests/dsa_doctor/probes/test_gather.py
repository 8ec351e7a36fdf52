import threading
from pathlib import Path
from typing import Any

import pytest

from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts, Fingerprint, Selector
from dsa_doctor.probes import csrc, cuda_toolkit, deep_gemm, gpus, software
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.gather import gather


@pytest.fixture
def empty(tmp_path: Path) -> Environment:
    return Environment(python=None, search_path=(tmp_path,))


def test_facts_of_an_empty_environment_survive_a_round_trip(empty: Environment) -> None:
    facts = gather(empty, selector=None, fingerprint=None)
    assert Facts.model_validate_json(facts.model_dump_json()) == facts
    assert facts.origin == "gathered"
    assert (facts.csrc.status, facts.deep_gemm.status) == ("absent", "absent")
    for observation in (facts.selector, facts.vllm_import, facts.fingerprint):
        assert observation.status == "unknown"
        assert "was not run" in (observation.cause or "")


def test_each_probe_that_raises_costs_only_its_own_fact(empty: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError("token=hunter2\nsecond line")

    for module in (csrc, cuda_toolkit, deep_gemm, gpus, software):
        monkeypatch.setattr(module, "probe", broken)
    facts = gather(empty, selector=broken, fingerprint=broken)
    for name in ("gpus", "software", "cuda_toolkit", "deep_gemm", "csrc", "selector", "fingerprint", "vllm_import"):
        observation = getattr(facts, name)
        assert observation.status == "unknown", name
        assert "raised ZeroDivisionError: token=<secret>" in observation.cause
        assert "second line" not in observation.cause


def test_probes_given_are_run_side_by_side(empty: Environment) -> None:
    met = threading.Barrier(2, timeout=20)

    def selector(environment: Environment) -> tuple[Observation[Selector], Observation[str]]:
        met.wait()
        return Observation[Selector].ok(Selector(answers=())), Observation[str].ok("0.99")

    def fingerprint(environment: Environment) -> Observation[Fingerprint]:
        met.wait()
        return Observation[Fingerprint].absent("no vLLM")

    facts = gather(empty, selector=selector, fingerprint=fingerprint)
    assert (facts.selector.status, facts.vllm_import.value) == ("ok", "0.99")
    assert facts.fingerprint.cause == "no vLLM"
    assert facts.selector.seconds > 0
