"""Runs that are cleaned up whatever happens."""

from collections.abc import Callable, Iterator

import pytest

from tests.dsa_doctor.launch.runs import Run


@pytest.fixture
def run(tmp_path, monkeypatch) -> Iterator[Callable[..., Run]]:
    """Return a function that prepares a run with the stand-in; MANNER says how that behaves."""
    monkeypatch.delenv("DSA_DOCTOR_PLUGIN", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    made: list[Run] = []

    def make(manner: str = "good", *arguments: str, **fields) -> Run:
        environment = {"MANNER": manner, **fields.pop("environment", {})}
        made.append(Run(tmp_path, list(arguments), environment, **fields))
        return made[-1]

    yield make
    for one in made:
        one.clean()
