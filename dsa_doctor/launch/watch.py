"""Watches a server from its start to its end: stages, readiness, the smoke prompt, interruption, time limits."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, NamedTuple, TypeVar

from dsa_doctor.launch.endpoint import Endpoint, Listener
from dsa_doctor.launch.process import Exit, Server
from dsa_doctor.launch.smoke import Answer, is_healthy, smoke
from dsa_doctor.launch.stages import LogFacts, Stage
from dsa_doctor.launch.tail import Tail

EXIT_TIMEOUT = 124
"""As timeout(1): the server was not ready in time."""
EXIT_NOT_SANE = 32
"""The server runs and does not answer with sense; the bit of what could not be determined to work."""

_ROUND = 0.1
_LAST_ROUNDS = 32
_HEALTH_INTERVAL = 1.0
_NOTE_INTERVAL = 3.0
SMOKE_SECONDS = 300.0

Reason = Literal["ended", "interrupted", "not ready in time", "smoke prompt", "detached"]


@dataclass(frozen=True)
class WatchOptions:
    """How to watch.

    Attributes:
        endpoint: where the server listens, and its key.
        taken_by: processes that listened there before the start.
        timeout: seconds until it must be ready; None waits as long as it runs.
        smoke: whether to ask the smoke prompt.
        smoke_timeout: seconds for its answer.
        tolerate: whether an answer without sense is only a warning (--force).
        detach: whether to leave the server running once it is ready.
    """

    endpoint: Endpoint
    taken_by: tuple[Listener, ...] = ()
    timeout: float | None = None
    smoke: bool = True
    smoke_timeout: float = SMOKE_SECONDS
    tolerate: bool = False
    detach: bool = False


@dataclass
class Outcome:
    """What became of a launch.

    Attributes:
        reason: what ended the watching.
        code: exit code of run-model.
        facts: what the log told.
        ready_seconds: seconds from the start to readiness; None where it never was ready.
        answer: to the smoke prompt; None where it was not asked.
    """

    reason: Reason
    code: int
    facts: LogFacts
    ready_seconds: float | None
    answer: Answer | None


T = TypeVar("T")


class _Question(Generic[T]):
    """Something asked of the server in a thread that may be left behind."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self.answers: list[T] = []
        self._ask = ask
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        self.answers.append(self._ask())


class _Health(NamedTuple):
    """Whether the server is healthy, and who listens; None is not known."""

    healthy: bool
    listeners: list[Listener] | None = None


def _look(endpoint: Endpoint) -> _Health:
    healthy = is_healthy(endpoint)
    return _Health(healthy, endpoint.listeners() if healthy else None)  # every process is looked at: not for nothing


class Interruptions:
    """Counts signals, in whichever thread they are told."""

    def __init__(self) -> None:
        self.number = 0
        self.count = 0

    def __call__(self, number: int) -> None:
        """Take one."""
        self.number, self.count = number, self.count + 1


class Watcher:
    """Watches one server, and waits for nothing else.

    The callbacks get each stage as it begins, readiness, what is to be said, and the stages of the stop. They must not
    wait for anything either.
    """

    def __init__(
        self,
        server: Server,
        options: WatchOptions,
        interruptions: Interruptions,
        *,
        on_stage: Callable[[Stage, float], None],
        on_ready: Callable[[Outcome], None],
        on_note: Callable[[str], None],
    ) -> None:
        self.server = server
        self.options = options
        self.facts = LogFacts()
        self.answer: Answer | None = None
        self.ready_seconds: float | None = None
        self._interruptions = interruptions
        self._on_stage, self._on_ready, self._on_note = on_stage, on_ready, on_note
        self._start = time.monotonic()
        self._next_health = 0.0
        self._next_note = 0.0
        self._heeded = 0
        self._why: Reason | None = None
        self._told = 0
        self._disk_told = False
        self._strangers: tuple[Listener, ...] = ()
        self._health: _Question[_Health] | None = None
        self._smoke: _Question[Answer] | None = None
        self._tail = Tail(server.log)

    def run(self) -> Outcome:
        """Watch until the server has ended, or is ready and to be left running."""
        while True:
            ended = self.server.poll(_ROUND)
            self._note_processes()
            self._read_log()
            self._tell_stages()
            if ended is not None:
                return self._ended(ended)
            if not self._act():
                return self._outcome("detached", 0)

    def _note_processes(self) -> None:
        """Remember now and then which processes the run has, to look for their GPU memory at the end."""
        now = time.monotonic()
        if now >= self._next_note:
            self._next_note = now + _NOTE_INTERVAL
            self.server.note_processes()
            self._look_at_the_disk()

    def _look_at_the_disk(self) -> None:
        if not self._disk_told and self.server.log.disk_is_full():
            self._disk_told = True
            self._on_note(f"the disk of the log {self.server.log.path} is full: what the server writes now is lost")

    def _act(self) -> bool:
        """Do what the moment asks for; False once the server is to be left running."""
        count = self._interruptions.count
        if count > self._heeded:
            # The first asks for a stop in stages, a later one for the end at once. A terminal that closes sends two.
            again = self._why == "interrupted"
            self._heeded = count
            self._why = "interrupted"
            self.server.stop(now=again)
            return True
        if self._why is not None or self.server.has_ended:
            return True
        if self.ready_seconds is None:
            self._look_for_health()
            return True
        if self._smoke is not None:
            self._take_answer()
            return True
        if self.options.detach:
            self.server.detach()
            return False
        return True

    def _look_for_health(self) -> None:
        now = time.monotonic() - self._start
        if self.options.timeout is not None and now > self.options.timeout:
            self._stop("not ready in time")
        elif self._health is not None:
            if self._health.is_over:
                looked = (self._health.answers or [_Health(False)])[0]
                self._health = None
                if looked.healthy and self._is_ours(looked.listeners):
                    self._become_ready()
        elif now >= self._next_health:
            self._next_health = now + _HEALTH_INTERVAL
            self._health = _Question(lambda: _look(self.options.endpoint))

    def _is_ours(self, listeners: list[Listener] | None) -> bool:
        """Whether what answers is the server that was started, and nobody else; says it once where it is not."""
        if listeners is None:
            return True
        unknown_before = any(one.pid is None for one in self.options.taken_by)
        strangers = tuple(
            one for one in listeners if (unknown_before if one.pid is None else not self.server.owns(one.pid))
        )
        if strangers and strangers != self._strangers:
            who = ", ".join(map(str, strangers))
            self._on_note(
                f"{self.options.endpoint.url} is answered by {who}, which this run did not start: that is not counted "
                "as ready. Stop it, or choose another --port."
            )
        self._strangers = strangers
        return not strangers

    def _become_ready(self) -> None:
        self.ready_seconds = time.monotonic() - self._start
        self.facts.stage = "ready"
        self._on_stage("ready", self.ready_seconds)
        if self.options.smoke:
            self._smoke = _Question(lambda: smoke(self.options.endpoint, timeout=self.options.smoke_timeout))
        else:
            self._tell_ready()

    def _take_answer(self) -> None:
        if self._smoke is None or not self._smoke.is_over:
            return
        failed = Answer("", "the smoke prompt could not be asked", answered=False)
        answer = self.answer = (self._smoke.answers or [failed])[0]
        self._smoke = None
        self._tell_ready()
        tolerated = answer.refused or (answer.answered and self.options.tolerate)
        if answer.problem is not None and not tolerated:
            self._stop("smoke prompt")

    def _tell_ready(self) -> None:
        so_far = self._outcome("ended", 0)
        self._on_ready(replace(so_far, facts=replace(self.facts, layers=list(self.facts.layers))))

    def _stop(self, why: Reason) -> None:
        self._why = why
        self.server.stop()

    def _read_log(self) -> None:
        for line in self._tail.read():
            stage = self.facts.read(line)
            if stage is not None and self.ready_seconds is None:
                seconds = time.monotonic() - self._start
                self._on_stage(stage, seconds)

    def _tell_stages(self) -> None:
        stages = self.server.stop_stages
        for name in stages[self._told :]:
            self._on_note(f"stopping: {name}")
        self._told = len(stages)

    def _ended(self, ended: Exit) -> Outcome:
        for _ in range(_LAST_ROUNDS):  # another run may write into the same file
            if self._tail.is_at_end():
                break
            self._read_log()
        self._look_at_the_disk()
        self._tell_stages()
        if self._why == "interrupted":
            return self._outcome("interrupted", 128 + self._interruptions.number)
        if self._why == "not ready in time":
            return self._outcome("not ready in time", EXIT_TIMEOUT)
        if self._why == "smoke prompt":
            return self._outcome("smoke prompt", EXIT_NOT_SANE)
        # A server that ends well before it served anything has failed all the same.
        code = ended.code if ended.code or self.ready_seconds is not None else 1
        return self._outcome("ended", code)

    def _outcome(self, reason: Reason, code: int) -> Outcome:
        return Outcome(reason, code, self.facts, self.ready_seconds, self.answer)
