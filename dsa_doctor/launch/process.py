"""The server as dsa-doctor sees it: a supervisor process that owns it, and the log file that it writes."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from dsa_doctor.launch.tail import LogFile
from dsa_doctor.processes.lineage import adopt_orphans, descendants

_LOST_PATIENCE = 5.0
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class LaunchError(RuntimeError):
    """The server could not be started; the message says why and what to do."""


@dataclass
class Exit:
    """How the server ended.

    Attributes:
        status: as subprocess gives it (negative: died of that signal); None where it had to be stopped and is unknown.
        left: processes of this run that are still there after the last stage; empty but for a kernel's fault.
        stages: the stages of the stop that were needed.
    """

    status: int | None = None
    left: tuple[int, ...] = ()
    stages: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        """Return the exit code to end with: the server's own, or 128 + signal as shells write it."""
        if self.status is None:
            return 1
        return 128 - self.status if self.status < 0 else self.status


class Server:
    """A running server. Everything it starts is a descendant of its supervisor, and dies with it."""

    def __init__(self, command: list[str], *, log: Path, environment: dict[str, str], grace: float) -> None:
        """Start the server.

        Args:
            command: argument vector.
            log: file that takes the server's output, appended to.
            environment: variables set on top of the inherited ones.
            grace: seconds that each stage of a stop waits.

        Raises:
            LaunchError: the log cannot be written, or the executable cannot be run.
        """
        self.exit: Exit | None = None
        self._exit = Exit()
        self._events = b""
        self._own_pids: set[int] = set()
        self.log = _open_log(log)
        # Should the supervisor be killed, this process is the next that adopts what it leaves.
        adopt_orphans()
        request = {"command": command, "environment": environment, "log": os.fspath(log), "grace": grace}
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", os.fspath(_SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._send(json.dumps(request))
        self.pid = 0
        while not self.pid and self.exit is None:
            self.poll(5.0)
        if not self.pid:
            self._supervisor.wait()
            raise LaunchError(f"{command[0]} cannot be started: {self._start_error or 'the supervisor ended'}")

    _start_error: str | None = None

    @property
    def stop_stages(self) -> list[str]:
        """Return the stages of the stop so far."""
        return self._exit.stages

    @property
    def supervisor_pid(self) -> int:
        """Return the process to send SIGTERM to for a clean stop once detached."""
        return self._supervisor.pid

    def owns(self, pid: int) -> bool:
        """Whether a process is one of this run's."""
        return pid == self._supervisor.pid or pid in descendants(self._supervisor.pid)

    @property
    def pids(self) -> set[int]:
        """Return the processes that this run is known to have had."""
        return set(self._own_pids)

    def note_processes(self) -> None:
        """Remember the processes that this run has now."""
        if self.exit is None:
            self._own_pids.update(descendants(self._supervisor.pid))

    def poll(self, seconds: float) -> Exit | None:
        """Wait at most `seconds` for events; return how the server ended once it and all its processes are gone."""
        stream = self._supervisor.stdout
        if self.exit is not None or stream is None:
            return self.exit
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(seconds):
                return None
        chunk = os.read(stream.fileno(), 65536)
        self._events += chunk
        *lines, self._events = self._events.split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        if not chunk and self.exit is None:
            self._lost()
        return self.exit

    @property
    def has_ended(self) -> bool:
        """Whether the server's own process has ended, though some it started may linger."""
        return self._exit.status is not None or self.exit is not None

    def stop(self, *, now: bool = False) -> None:
        """Ask for a stop in stages, or at once; `poll` tells when it is done."""
        self._send("kill" if now else "stop")

    def detach(self) -> None:
        """Leave the server running when this process ends."""
        self._send("detach")

    def _send(self, command: str) -> None:
        stream = self._supervisor.stdin
        if stream is not None:
            with contextlib.suppress(OSError):  # the supervisor has ended
                stream.write(command.encode() + b"\n")
                stream.flush()

    def _take(self, event: dict[str, object]) -> None:
        kind = event.get("event")
        if kind == "started":
            self.pid = int(str(event["pid"]))
            self._own_pids.add(self.pid)
        elif kind == "cannot_start":
            self._start_error = str(event["error"])
            self.exit = self._exit
        elif kind == "exited":
            self._exit.status = int(str(event["status"]))
        elif kind == "stage":
            self._exit.stages.append(str(event["name"]))
        elif kind == "stopped":
            left, status = event["left"], event.get("status")
            self._exit.left = tuple(left) if isinstance(left, list) else ()
            if self._exit.status is None and isinstance(status, int):
                self._exit.status = status
            self.exit = self._exit
            self._supervisor.wait()

    def _lost(self) -> None:
        """The supervisor itself was killed: end what it leaves, which are this process's children now."""
        self._supervisor.wait()
        deadline = time.monotonic() + _LOST_PATIENCE
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self._exit.stages.append("SIGKILL to every process, because the supervisor was killed")
        self._exit.left = tuple(left)
        self.exit = self._exit


def _open_log(log: Path) -> LogFile:
    """Write one line, so that a full disk or a wrong path is found before the server starts, and open the file."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and not (log.is_file() or log.is_char_device()):
            raise LaunchError(f"the log file {log} is neither a file nor new. Name another with --log-file.")
        with log.open("ab", buffering=0) as stream:
            stream.write(b"# log of a server started by dsa-doctor run-model\n")
            start = stream.tell()
        if not log.is_file():
            raise LaunchError(
                f"the log file {log} is a device: nothing could be read back. Name another with --log-file."
            )
        return LogFile(log, start)
    except OSError as error:
        raise LaunchError(
            f"the log file {log} cannot be written: {error.strerror}. Free some space, or name another with --log-file."
        ) from error
