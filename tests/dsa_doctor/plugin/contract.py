"""Runs `contract_child.py` on a vLLM release with a capability in force, and holds what it answered."""

from pathlib import Path
from typing import Any

from tests.emulated_vllm import ask
from tests.once import Once

CHILD = "tests.dsa_doctor.plugin.contract_child"


class Answers:
    """What a child answered, step by step."""

    def __init__(self, steps: dict[str, tuple[str, dict[str, Any]]], answers: list[dict[str, Any]]) -> None:
        self.raw = answers
        self._by_name = dict(zip(steps, answers, strict=True))

    def asked(self, name: str) -> bool:
        return name in self._by_name

    def value(self, name: str) -> Any:
        answer = self._by_name[name]
        assert "value" in answer, answer.get("error")
        return answer["value"]

    def error(self, name: str) -> str:
        answer = self._by_name[name]
        assert "error" in answer, answer.get("value")
        return str(answer["error"])


def run(
    root: Path,
    capability: str,
    steps: dict[str, tuple[str, dict[str, Any]]],
    *,
    lasting: bool = True,
    **variables: str,
) -> Answers:
    """Run the steps (by name: method and arguments) on the release below `root`, which is left as it was imported.

    The variables are of the environment of the process that answers.
    """
    asked = {"steps": list(steps.values())}
    return Answers(steps, ask(CHILD, root, capability, asked, lasting=lasting, **variables))


def run_once(
    name: str, once: Once, root: Path, capability: str, steps: dict[str, tuple[str, dict[str, Any]]]
) -> Answers:
    """As `run`, once for all of pytest-xdist's workers."""
    return Answers(steps, once(f"contract-{name}", lambda: run(root, capability, steps).raw))
