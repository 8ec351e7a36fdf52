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
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsa_doctor.probes.redact import last_lines

CHILDREN = Path(__file__).with_name("children")


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
    read_end, write_end = os.pipe()
    chunks: list[bytes] = []

    def collect() -> None:
        with os.fdopen(read_end, "rb") as stream:
            while chunk := stream.read(65536):
                chunks.append(chunk)

    # An anonymous temporary file holds the output: a pipe that nobody drains would stall a talkative child.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [os.fspath(python), os.fspath(CHILDREN / script)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                start_new_session=True,
                env={**os.environ, **(environment or {}), "DSA_DOCTOR_ANSWER_FD": str(write_end)},
            )
        except OSError as error:
            os.close(read_end)
            os.close(write_end)
            return ChildResult("not_started", {}, f"could not start {python.name}: {error.strerror}", (), 0.0)
        os.close(write_end)
        reader = threading.Thread(target=collect, daemon=True)
        reader.start()
        timed_out = False
        try:
            process.communicate(json.dumps(request).encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        except OSError:
            process.wait(timeout=timeout)
        finally:
            _kill_group(process)
        reader.join(timeout=5)
        seconds = time.monotonic() - start
        output.seek(max(0, output.seek(0, os.SEEK_END) - 65536))
        evidence = last_lines(output.read().decode("utf-8", "replace"))
    name = script.removesuffix(".py")
    if timed_out:
        return ChildResult("timeout", {}, f"the {name} probe gave no answer within {timeout:.0f} s", evidence, seconds)
    if process.returncode < 0:
        died_of = signal.Signals(-process.returncode).name
        return ChildResult("signal", {}, f"the {name} probe died of {died_of}", evidence, seconds)
    if process.returncode > 0:
        cause = f"the {name} probe ended with exit status {process.returncode}"
        return ChildResult("exit", {}, cause, evidence, seconds)
    try:
        answer = json.loads(b"".join(chunks))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return ChildResult("garbage", {}, f"the {name} probe gave no readable answer", evidence, seconds)
    return ChildResult("answered", answer, "", evidence, seconds)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the child's process group, and reap the child."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the whole group is gone already
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
