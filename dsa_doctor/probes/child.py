"""Runs a probe in a subprocess of the examined environment, and survives whatever it does.

A child is a stand-alone script (standard library plus the package it examines), run by path so that it works under any
interpreter. It reads one JSON request from standard input and writes one JSON answer to the file descriptor named by
DSA_DOCTOR_ANSWER_FD: standard output belongs to the examined package, which may print anything.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsa_doctor.probes.redact import last_lines

CHILDREN = Path(__file__).with_name("children")
_LARGEST_ANSWER = 64 << 20
_KEPT_OUTPUT = 64 << 10


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


def run_child(
    script: str,
    request: dict[str, Any],
    *,
    python: Path,
    timeout: float,
    environment: dict[str, str] | None = None,
) -> ChildResult:
    """Run `children/<script>` under `python`, and return its answer or the way in which it failed; never raises.

    Args:
        script: file name below the children folder.
        request: JSON-serialisable request, given on standard input.
        python: interpreter of the examined environment.
        timeout: seconds after which the child and its whole process group are killed.
        environment: variables set on top of the inherited ones.
    """
    start = time.monotonic()
    answer_end, write_end = os.pipe()
    answer = _Collector(answer_end, keep_first=_LARGEST_ANSWER)
    try:
        process = subprocess.Popen(
            [os.fspath(python), os.fspath(CHILDREN / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
            # The examined environment is left as it was found, byte code caches included.
            env={
                **os.environ,
                **(environment or {}),
                "DSA_DOCTOR_ANSWER_FD": str(write_end),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
    except OSError as error:
        os.close(answer_end)
        os.close(write_end)
        return ChildResult("not_started", {}, f"could not start {python.name}: {error.strerror}", (), 0.0)
    os.close(write_end)
    assert process.stdout is not None
    output = _Collector(os.dup(process.stdout.fileno()), keep_last=_KEPT_OUTPUT)
    process.stdout.close()
    process.stdout = None
    answer.start()
    output.start()
    timed_out = False
    try:
        process.communicate(json.dumps(request).encode(), timeout=timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        _kill_group(process)
    # A grandchild in a session of its own may hold the pipes open; what has come so far then counts.
    answer.join(timeout=2)
    output.join(timeout=2)
    seconds = time.monotonic() - start
    evidence = last_lines(output.collected().decode("utf-8", "replace"))
    name = script.removesuffix(".py")
    if timed_out:
        return ChildResult("timeout", {}, f"the {name} probe gave no answer within {timeout:.0f} s", evidence, seconds)
    if process.returncode < 0:
        died_of = _signal_name(-process.returncode)
        return ChildResult("signal", {}, f"the {name} probe died of {died_of}", evidence, seconds)
    if process.returncode > 0:
        cause = f"the {name} probe ended with exit status {process.returncode}"
        return ChildResult("exit", {}, cause, evidence, seconds)
    try:
        parsed = json.loads(answer.collected())
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        return ChildResult("garbage", {}, f"the {name} probe gave no readable answer", evidence, seconds)
    return ChildResult("answered", parsed, "", evidence, seconds)


class _Collector(threading.Thread):
    """Drains a pipe, so that a talkative child never stalls, and keeps a bounded part of what came."""

    def __init__(self, descriptor: int, *, keep_first: int = 0, keep_last: int = 0) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._keep_first = keep_first
        self._keep_last = keep_last
        self._kept = bytearray()

    def run(self) -> None:
        with os.fdopen(self._descriptor, "rb", buffering=0) as stream:
            while chunk := stream.read(65536):
                if self._keep_last:
                    self._kept += chunk
                    del self._kept[: -self._keep_last]
                elif len(self._kept) <= self._keep_first:
                    self._kept += chunk

    def collected(self) -> bytes:
        """Return what was kept."""
        return bytes(self._kept)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the child's process group, and reap the child."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the whole group is gone already
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
