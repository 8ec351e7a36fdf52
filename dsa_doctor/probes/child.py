"""Runs a probe in a subprocess of the examined environment, and survives whatever it does.

A child is a stand-alone script (standard library plus the package it examines), run by path so that it works under any
interpreter. It reads one JSON request from standard input and writes one JSON answer to the file descriptor named by
DSA_DOCTOR_ANSWER_FD: standard output belongs to the examined package, which may print anything.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsa_doctor.cache.trace import Trace
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.isolation import without_network
from dsa_doctor.processes.child import run
from dsa_doctor.redaction import last_lines

CHILDREN = Path(__file__).with_name("children")
_LARGEST_ANSWER = 64 << 20
# The examined environment is left as it was found, byte code caches included. humming, which vLLM imports, would start
# two processes that build its launcher below the user's home.
_LEFT_ALONE = {"PYTHONDONTWRITEBYTECODE": "1", "HUMMING_DISABLE_PARALLEL_BUILD": "1"}


@dataclass(frozen=True)
class ChildResult:
    """What became of a child.

    Attributes:
        status: `answered` with a JSON object, or the way in which it failed.
        answer: the JSON object; empty unless answered.
        cause: one line that says what happened; empty when answered.
        evidence: last lines of its output, redacted.
        seconds: wall-clock time.
    """

    status: Literal["answered", "timeout", "signal", "exit", "garbage", "not_started"]
    answer: dict[str, Any]
    cause: str
    evidence: tuple[str, ...]
    seconds: float


def ask(
    environment: Environment,
    script: str,
    request: dict[str, Any],
    *,
    timeout: float,
    variables: Mapping[str, str | None] | None = None,
    trace: Trace | None = None,
) -> ChildResult:
    """Put a request to a child of the examined environment, with that environment's import order; never raises.

    Args:
        environment: where it runs; without an interpreter nothing is started, and the cause says why.
        script: as for `run_child`.
        request: likewise; the import order is added.
        timeout: likewise.
        variables: set for the child beside what hides this environment's settings from another one.
        trace: filled with what the child loaded.
    """
    if environment.python is None:
        return ChildResult("not_started", {}, environment.without_python, (), 0.0)
    given = {**environment.hidden_settings(), **(variables or {})}
    result = run_child(
        script,
        {"search_path": environment.import_order(), **request},
        python=environment.python,
        timeout=timeout,
        environment=given,
        foreign=not environment.own,
    )
    if trace is not None:
        trace.add_child(result.status, result.answer, given=given)
    return result


def run_child(
    script: str,
    request: dict[str, Any],
    *,
    python: Path,
    timeout: float,
    environment: Mapping[str, str | None] | None = None,
    foreign: bool = False,
) -> ChildResult:
    """Run `children/<script>` under `python`, and return its answer or the way in which it failed; never raises.

    Args:
        script: file name below the children folder.
        request: JSON-serialisable request, given on standard input.
        python: interpreter of the examined environment.
        timeout: seconds after which the child and its whole process group are killed.
        environment: variables set on top of the inherited ones; None takes one away.
        foreign: whether it runs code of another environment than this one: then without network, if the system can.
    """
    ended = run(
        [*(without_network() if foreign else ()), python, CHILDREN / script],
        timeout=timeout,
        given=json.dumps(request).encode(),
        environment=_changed(os.environ, {**(environment or {}), **_LEFT_ALONE}),
        merge=True,
        answer_variable="DSA_DOCTOR_ANSWER_FD",
        keep_answer=_LARGEST_ANSWER,
    )
    if ended.status == "not_started":
        return ChildResult("not_started", {}, f"could not start {python.name}: {ended.problem}", (), 0.0)
    evidence = last_lines(ended.stdout.decode("utf-8", "replace"))
    name = script.removesuffix(".py")
    if ended.problem:
        status: Literal["timeout", "signal", "exit"] = "exit" if ended.code > 0 else "signal"
        if ended.status == "timeout":
            status = "timeout"
        return ChildResult(status, {}, f"the {name} probe {ended.problem}", evidence, ended.seconds)
    try:
        parsed = json.loads(ended.answer)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        return ChildResult("garbage", {}, f"the {name} probe gave no readable answer", evidence, ended.seconds)
    return ChildResult("answered", parsed, "", evidence, ended.seconds)


def _changed(inherited: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    together = {**inherited, **changes}
    return {name: value for name, value in together.items() if value is not None}
