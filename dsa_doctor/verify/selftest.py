"""Gather: run the self-test in processes of their own, and say what became of every case."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal

from dsa_doctor.processes.child import Child, ChildPool, ending, scratch_folder
from dsa_doctor.redaction import last_lines, redact

Status = Literal["pass", "fail", "error", "crash", "unknown", "skipped"]

#: Seconds that a case may take, compiling and (for the first) the start of its process included.
CASE_SECONDS = 180.0

#: Processes that run at once: compiling is what takes time, and each needs a core.
MOST_PROCESSES = 10

_COMMAND = (sys.executable, "-m", "dsa_kernels.selftest")


@dataclass(frozen=True)
class Record:
    """What became of a case.

    Attributes:
        group: its group.
        case: its name; '' for what befell a group before any case began.
        op: its op; '' likewise.
        provokes: what it is made to show.
        status: "pass"; "fail" where the op computed wrongly; "error" where it raised; "crash" where it ended the
            process or gave no answer in time; "unknown" where it could not be judged; "skipped" where there is
            nothing to judge.
        seconds: wall-clock time, compiling included.
        error: the measured error, in the unit of `limit`.
        limit: the largest error that passes.
        expected: what was to come, where it failed.
        got: what came, or the reason.
    """

    group: str
    case: str
    op: str
    provokes: str
    status: Status
    seconds: float = 0.0
    error: float | None = None
    limit: float | None = None
    expected: str = ""
    got: str = ""


@dataclass
class SelfTest:
    """A run of the self-test. `machine` fills as the processes start; `no_device` is the reason why none could."""

    groups: Sequence[str]
    ops: Sequence[str] = ()
    device: str = "cuda"
    quick: bool = False
    command: Sequence[str] = _COMMAND
    case_seconds: float = CASE_SECONDS
    machine: dict[str, Any] = field(default_factory=dict)
    no_device: str = ""
    _children: list[Child] = field(default_factory=list)
    _stopped: bool = False

    def records(self) -> Iterator[Record]:
        """Run everything, and yield each case as it ends, in whatever order."""
        found: queue.Queue[Record | None] = queue.Queue()
        processes = min(len(self.groups), MOST_PROCESSES, max(2, os.cpu_count() or 2))
        with ChildPool(processes) as pool:
            try:
                for group in self.groups:
                    pool.submit(self._run_group, group, found)
                left = len(self.groups)
                while left:
                    record = found.get()
                    if record is None:
                        left -= 1
                    else:
                        yield record
            finally:
                self._stop()

    def _run_group(self, group: str, found: queue.Queue[Record | None]) -> None:
        try:
            done: list[str] = []
            while not self._stopped and not self.no_device:
                again = self._run_process(group, done, found)
                if not again:
                    return
        except Exception as error:
            found.put(Record(group, "", "", "", "crash", got=redact(f"{type(error).__name__}: {error}")))
        finally:
            found.put(None)

    def _run_process(self, group: str, done: list[str], found: queue.Queue[Record | None]) -> bool:
        """Run what is left of a group in one process; True when it ended early and something is left."""
        arguments = [*self.command, "--group", group, "--device", self.device]
        arguments += [part for op in self.ops for part in ("--op", op)]
        arguments += [part for case in done for part in ("--skip", case)]
        arguments += ["--quick"] if self.quick else []
        planned: list[str] = []
        started: dict[str, Any] | None = None
        with scratch_folder("dsa-doctor-") as folder, tempfile.TemporaryFile("w+", errors="replace") as output:
            # An empty folder to run in: -m puts the current one first on the search path.
            child = Child(arguments, stdout=subprocess.PIPE, stderr=output, folder=folder, environment=_environment())
            self._children.append(child)
            if self._stopped:  # between the last look and the start
                self._stop()
            watch = _Watch(child, self.case_seconds)
            stdout, _ = child.take_streams()
            assert stdout is not None
            for event in _events(stdout):
                watch.restart()
                if event["event"] == "no_device":
                    self.no_device = str(event["reason"])
                elif event["event"] == "machine":
                    planned = list(event.pop("cases"))
                    self.machine = self.machine or {key: value for key, value in event.items() if key != "event"}
                elif event["event"] == "start":
                    started = event
                elif event["event"] == "end":
                    started = None
                    done.append(event["case"])
                    found.put(_record(group, event))
            stdout.close()
            watch.stop()
            code = child.wait()
            if self._stopped or self.no_device or (code == 0 and started is None):
                return False
            reason = _ending(code, watch.expired, self.case_seconds, output)
        if started is None and not planned:
            found.put(Record(group, "", "", "", "crash", got=f"could not start: {reason}"))
            return False
        if started is not None:
            done.append(started["case"])
            # What the others rest on cannot be had: that says nothing of them.
            status: Status = "unknown" if started["gate"] else "crash"
            found.put(Record(group, started["case"], started["op"], started["provokes"], status, got=reason))
            if started["gate"]:
                return False
        return any(case not in done for case in planned)

    def _stop(self) -> None:
        self._stopped = True
        for child in self._children:
            child.end()


class _Watch:
    """Kills a process that says nothing for too long."""

    def __init__(self, child: Child, seconds: float) -> None:
        self._child, self._seconds = child, seconds
        self.expired = False
        self._timer = self._begin()

    def _begin(self) -> threading.Timer:
        timer = threading.Timer(self._seconds, self._kill)
        timer.daemon = True
        timer.start()
        return timer

    def _kill(self) -> None:
        self.expired = True
        self._child.end()

    def restart(self) -> None:
        """Begin to count anew."""
        self._timer.cancel()
        self._timer = self._begin()

    def stop(self) -> None:
        """Count no more."""
        self._timer.cancel()


def _events(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in stream:
        try:
            event = json.loads(line)
        except ValueError:  # a line cut off by a crash
            continue
        if isinstance(event, dict) and "event" in event:
            yield event


def _record(group: str, event: dict[str, Any]) -> Record:
    values = {key: event[key] for key in Record.__dataclass_fields__ if key in event}
    values["got"] = redact(values["got"])
    return Record(group=group, **values)


def _ending(code: int, expired: bool, seconds: float, output: IO[str]) -> str:
    if expired:
        return f"no answer within {seconds:.0f} s"
    output.seek(0)
    said = last_lines(output.read()[-20_000:], count=1)
    return f"the process {ending(code) or 'ended with exit status 0'}" + (f": {said[0]}" if said else "")


def _environment() -> dict[str, str]:
    """The environment of a child: relative entries of PYTHONPATH made absolute, since it runs in another folder."""
    paths = os.environ.get("PYTHONPATH", "")
    absolute = os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep) if path)  # noqa: PTH100
    return {**os.environ, **({"PYTHONPATH": absolute} if absolute else {})}
