"""Runs `contract_child.py` on a vLLM release with a capability in force, and holds what it answered."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.once import Once

CHILD = Path(__file__).with_name("contract_child.py")
REPOSITORY = Path(__file__).parents[3]


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


def run(root: Path, capability: str, steps: dict[str, tuple[str, dict[str, Any]]], **environment: str) -> Answers:
    """Run the steps (by name: method and arguments) in a fresh process on the release below `root`."""
    request = {"root": str(root), "capability": capability, "steps": list(steps.values())}
    path = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "kernels")))
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Answers(steps, json.loads(done.stdout))


def run_once(
    name: str, once: Once, root: Path, capability: str, steps: dict[str, tuple[str, dict[str, Any]]]
) -> Answers:
    """As `run`, once for all of pytest-xdist's workers: importing vllm is what takes the time."""
    return Answers(steps, once(f"contract-{name}", lambda: run(root, capability, steps).raw))
