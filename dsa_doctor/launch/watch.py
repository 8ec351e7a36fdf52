"""Watches a server from its start to its end: stages, readiness, the smoke prompt, interruption, time limits."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

from dsa_doctor.launch.http import Answer, is_healthy, smoke
from dsa_doctor.launch.process import Exit, Server
from dsa_doctor.launch.stages import LogFacts, Stage
from dsa_doctor.launch.tail import Tail

EXIT_TIMEOUT = 124
"""As timeout(1): the server was not ready in time."""
EXIT_NOT_SANE = 32
"""The server runs and does not answer with sense; the bit of what could not be determined to work."""

_HEALTH_INTERVAL = 1.0
_NOTE_INTERVAL = 3.0
_SMOKE_TIMEOUT = 300.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Reason = Literal["ended", "interrupted", "not ready in time", "smoke prompt", "detached"]


@dataclass(frozen=True)
class WatchOptions:
    """How to watch.

    Attributes:
        url: where the server listens.
        timeout: seconds until it must be ready; None waits as long as it runs.
        smoke: whether to ask the smoke prompt.
        tolerate: whether an answer without sense is only a warning (--force).
        detach: whether to leave the server running once it is ready.
        api_key: key that the server asks for.
    """

    url: str
    timeout: float | None = None
    smoke: bool = True
    tolerate: bool = False
    detach: bool = False
    api_key: str | None = None


@dataclass
class Outcome:
    """What became of a launch.

    Attributes:
        reason: what ended the watching.
        code: exit code of run-model.
        facts: what the log told.
        ready_seconds: seconds from the start to readiness; None where it never was ready.
        answer: to the smoke prompt; None where it was not asked.
        exit: how the server ended; None where it was left running.
        stages: (stage, seconds since the start at which it began).
    """

    reason: Reason
    code: int
    facts: LogFacts
    ready_seconds: float | None
    answer: Answer | None
    exit: Exit | None
    stages: list[tuple[Stage, float]] = field(default_factory=list)


class Watcher:
    """Watches one server. The callbacks get the log's bytes, each stage as it begins, and readiness."""

    def __init__(
        self,
        server: Server,
        options: WatchOptions,
        *,
        on_log: Callable[[bytes], None],
        on_stage: Callable[[Stage, float], None],
        on_ready: Callable[["Watcher"], None],
        on_stop: Callable[[str], None],
    ) -> None:
        self.server = server
        self.options = options
        self.facts = LogFacts()
        self.answer: Answer | None = None
        self.ready_seconds: float | None = None
        self.stages: list[tuple[Stage, float]] = [("start", 0.0)]
        self._on_log, self._on_stage, self._on_ready, self._on_stop = on_log, on_stage, on_ready, on_stop
        self._start = time.monotonic()
        self._next_health = 0.0
        self._next_note = 0.0
        self._signal = 0
        self._signals = 0
        self._why: Reason | None = None
        self._told = 0
        self._asking: threading.Thread | None = None
        self._answers: list[Answer] = []
        self._tail = Tail(server.log, server.log_offset)

    def run(self) -> Outcome:
        """Watch until the server has ended, or is ready and to be left running."""
        previous = {number: signal.signal(number, self._interrupted) for number in _SIGNALS}
        try:
            while True:
                ended = self.server.poll(0.1)
                self._note_processes()
                self._read_log()
                self._tell_stages()
                if ended is not None:
                    return self._ended(ended)
                if not self._act():
                    return self._outcome("detached", 0, None)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._tail.close()

    def outcome_so_far(self) -> Outcome:
        """Return what is known while the server runs."""
        return self._outcome("ended", 0, None)

    def _interrupted(self, number: int, _frame: FrameType | None) -> None:
        self._signal, self._signals = number, self._signals + 1

    def _note_processes(self) -> None:
        """Remember now and then which processes the run has, to look for their GPU memory at the end."""
        now = time.monotonic()
        if now >= self._next_note:
            self._next_note = now + _NOTE_INTERVAL
            self.server.note_processes()

    def _act(self) -> bool:
        """Do what the moment asks for; False once the server is to be left running."""
        if self._signals:
            if self._why != "interrupted" or self._signals > 1:
                self._stop("interrupted", now=self._signals > 1)
                self._signals = min(self._signals, 1)
            return True
        if self._why is not None or self.server.has_ended:
            return True
        if self.ready_seconds is None:
            self._look_for_health()
            return True
        if self._asking is not None:
            return self._take_answer()
        return not (self.options.detach and self._leave())

    def _look_for_health(self) -> None:
        now = time.monotonic() - self._start
        if self.options.timeout is not None and now > self.options.timeout:
            self._stop("not ready in time")
        elif now >= self._next_health:
            self._next_health = now + _HEALTH_INTERVAL
            if is_healthy(self.options.url):
                self.ready_seconds = time.monotonic() - self._start
                self.facts.stage = "ready"
                self.stages.append(("ready", self.ready_seconds))
                self._on_stage("ready", self.ready_seconds)
                if self.options.smoke:
                    self._asking = threading.Thread(target=self._ask, daemon=True)
                    self._asking.start()
                else:
                    self._on_ready(self)

    def _ask(self) -> None:
        self._answers.append(smoke(self.options.url, timeout=_SMOKE_TIMEOUT, api_key=self.options.api_key))

    def _take_answer(self) -> bool:
        if self._answers:
            self._asking, self.answer = None, self._answers[0]
            self._on_ready(self)
            bad = self.answer.problem is not None and not (self.answer.answered and self.options.tolerate)
            if bad:
                self._stop("smoke prompt")
        return True

    def _leave(self) -> bool:
        self.server.detach()
        return True

    def _stop(self, why: Reason, *, now: bool = False) -> None:
        self._why = self._why or why
        if why == "interrupted":
            self._why = why
        self.server.stop(now=now)

    def _read_log(self) -> None:
        while True:
            new, lines = self._tail.read()
            if not new:
                return
            with suppress(OSError):  # standard output is full or gone: the log file still has it
                self._on_log(new)
            for line in lines:
                stage = self.facts.read(line)
                if stage is not None and self.ready_seconds is None:
                    seconds = time.monotonic() - self._start
                    self.stages.append((stage, seconds))
                    self._on_stage(stage, seconds)

    def _tell_stages(self) -> None:
        stages = self.server.stop_stages
        for name in stages[self._told :]:
            self._on_stop(name)
        self._told = len(stages)

    def _ended(self, ended: Exit) -> Outcome:
        self._read_log()
        if self._why == "interrupted":
            return self._outcome("interrupted", 128 + self._signal, ended)
        if self._why == "not ready in time":
            return self._outcome("not ready in time", EXIT_TIMEOUT, ended)
        if self._why == "smoke prompt":
            return self._outcome("smoke prompt", EXIT_NOT_SANE, ended)
        # A server that ends well before it served anything has failed all the same.
        code = ended.code if ended.code or self.ready_seconds is not None else 1
        return self._outcome("ended", code, ended)

    def _outcome(self, reason: Reason, code: int, ended: Exit | None) -> Outcome:
        return Outcome(reason, code, self.facts, self.ready_seconds, self.answer, ended, self.stages)


def write_through(data: bytes) -> None:
    """Write the server's output to standard output as it is.

    Unbuffered: what a full disk or a gone reader refuses must not be tried again at the end.
    """
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    while data:
        data = data[os.write(descriptor, data) :]
