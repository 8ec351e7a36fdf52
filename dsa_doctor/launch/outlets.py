"""What a launch writes for people, each in a thread of its own: a reader that stalls holds up that thread alone.

Nothing piles up in memory: the log file is the store of the server's output, and a bounded number of dsa-doctor's own
lines waits.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from dsa_doctor.launch.conditions import Condition
from dsa_doctor.launch.secrets import Mask
from dsa_doctor.launch.stages import Stage
from dsa_doctor.launch.tail import LogFile
from dsa_doctor.launch.watch import Outcome
from dsa_doctor.planner.plan import Plan

_CHUNK = 64 << 10
_ROUND = 0.1
_MOST_LINES = 1000
_MOST_PATIENCE = 10
"""Times the patience for which a reader that does take something is waited for."""


class Listener(Protocol):
    """What is told while a launch goes on; `render.launch` writes it for people."""

    def note(self, text: str) -> None:
        """Take one line of dsa-doctor's own."""

    def conditions(self, conditions: list[Condition]) -> None:
        """Take what was looked at on this machine before the start."""

    def stage(self, stage: Stage, seconds: float) -> None:
        """Take a stage of the start as it begins."""

    def ready(self, outcome: Outcome, url: str, plan: Plan) -> None:
        """Take the summary of a server that is ready."""


class LogCopy:
    """Copies a growing log to a descriptor as it is, but for secrets, as fast as the reader takes it."""

    def __init__(self, log: LogFile, descriptor: int, mask: Mask) -> None:
        """Begin to copy from where this run's part of the log begins."""
        self._log, self._descriptor, self._mask = log, descriptor, mask
        self._position = log.start
        self._ending = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._run, name="log copy", daemon=True)
        self._thread.start()

    def close(self, patience: float) -> int:
        """Copy what is left while the reader takes it; return how many bytes were not shown.

        Args:
            patience: seconds without progress after which the reader counts as stalled.
        """
        self._ending.set()
        _join(self._thread, lambda: self._position, patience)
        return 0 if self._lost else max(0, self._log.size() - self._position)

    def _run(self) -> None:
        cuts = self._log.cuts
        while True:
            ending = self._ending.is_set()  # before the look: what is written until then is copied
            self._log.size()
            if cuts != self._log.cuts:
                cuts, self._position = self._log.cuts, 0
            data = self._log.read(self._position, _CHUNK)
            # What may be the beginning of a secret is shown at the very end alone: the rest of it may come later.
            shown = self._mask.feed(data) if data or not ending else self._mask.rest()
            try:
                write_all(self._descriptor, shown)
            except OSError:  # full, or its reader gone: the log has it all
                self._lost = True
                return
            self._position += len(data)
            if not data:
                if ending:
                    return
                self._ending.wait(_ROUND)


class Relay:
    """Passes on what a launch tells, in order, without ever making it wait."""

    def __init__(self, listener: Listener, mask: Mask) -> None:
        self._listener, self._mask = listener, mask
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_LINES)
        self._dropped = 0
        self._told = 0
        self._thread = threading.Thread(target=self._run, name="narrator", daemon=True)
        self._thread.start()

    def note(self, text: str) -> None:
        """Pass on one line."""
        self._tell(lambda: self._listener.note(self._mask.text(text)))

    def conditions(self, conditions: list[Condition]) -> None:
        """Pass on what was looked at on this machine before the start."""
        self._tell(lambda: self._listener.conditions(conditions))

    def stage(self, stage: Stage, seconds: float) -> None:
        """Pass on a stage of the start."""
        self._tell(lambda: self._listener.stage(stage, seconds))

    def ready(self, outcome: Outcome, url: str, plan: Plan) -> None:
        """Pass on the summary of a server that is ready."""
        self._tell(lambda: self._listener.ready(outcome, url, plan))

    def close(self, patience: float) -> None:
        """Wait until everything is told, while the reader takes it; `patience` as for a log's copy."""
        if self._dropped:
            self.note(f"{self._dropped} lines of dsa-doctor's own were not shown")
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        _join(self._thread, lambda: self._told, patience)

    def _tell(self, telling: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(telling)
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        while (telling := self._waiting.get()) is not None:
            with suppress(OSError):  # standard error is gone
                telling()
            self._told += 1


def _join(thread: threading.Thread, progress: Callable[[], int], patience: float) -> None:
    """Wait for a thread until it makes no progress for `patience` seconds, and not much longer than that in all."""
    now = time.monotonic()
    seen, stalled, last = progress(), now + patience, now + _MOST_PATIENCE * patience
    while thread.is_alive() and time.monotonic() < min(stalled, last):
        thread.join(0.05)
        if progress() != seen:
            seen, stalled = progress(), time.monotonic() + patience


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a descriptor, past the buffers of sys: a thread that waits in those keeps the interpreter from ending.

    Raises:
        OSError: it is full, closed, or its reader is gone.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
