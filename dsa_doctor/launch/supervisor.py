"""Parent of the server: starts it, waits for it, and ends it with everything that it started.

A stand-alone script (standard library only) that dsa-doctor runs by path, in a session of its own, so that it outlives
dsa-doctor just long enough to clean up. It adopts every orphaned descendant (PR_SET_CHILD_SUBREAPER), which is how
engine processes that outlive a killed API server are still found.

The first line on standard input is the request, a JSON object: command, environment (set on top of the inherited
one), log (path, appended to), grace (seconds per stage). It is no argument, because anyone can read those. Commands
follow, one a line: `stop`, `kill`, `detach`. The end of standard input without `detach` means that dsa-doctor is gone,
and stops the server. Standard output carries events, one JSON object a line: `started` {pid}, `cannot_start` {error},
`exited` {status}, `stage` {name}, `stopped` {left, status}.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

sys.path.append(str(Path(__file__).resolve().parents[2]))

from dsa_doctor.processes.lineage import adopt_orphans, descendants, die_with

_POLL = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Supervisor:
    """One server and its descendants."""

    def __init__(self, request: dict[str, object], pending: bytes = b"") -> None:
        self.request = request
        self.grace = float(str(request["grace"]))
        self.server: subprocess.Popen[bytes] | None = None
        self.wanted = ""
        self.detached = False
        self.deaf = False
        self.pending = pending

    def run(self) -> None:
        """Start the server and stay until it and its descendants are gone."""
        for number in _SIGNALS:  # before the start: one that comes in between must find what it has to stop
            signal.signal(number, self.on_signal)
        own = os.getpid()
        try:
            with Path(str(self.request["log"])).open("ab") as log:
                self.server = subprocess.Popen(
                    list(self.request["command"]),  # type: ignore[call-overload]
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=lambda: die_with(own, signal.SIGTERM),  # safe: this process has a single thread
                    env={**os.environ, **self.request["environment"]},  # type: ignore[dict-item]
                )
        except OSError as error:
            self.tell("cannot_start", error=f"{error.strerror or error}")
            return
        self.tell("started", pid=self.server.pid)
        status = self.wait()
        if status is not None:
            self.tell("exited", status=status)
        self.end()

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Ask for a stop; the loop sees it at its next round."""
        self.wanted = self.wanted or "stop"

    def wait(self) -> int | None:
        """Return the server's exit status once it ends by itself, or None once a stop is asked for."""
        while not self.wanted:
            self.listen()
            status = self.poll()
            if status is not None:
                return status
        return None

    def listen(self) -> None:
        """Follow what commands come within a moment; their end without `detach` asks for a stop."""
        if self.deaf or not select.select([0], [], [], _POLL)[0]:
            if self.deaf:
                time.sleep(_POLL)
            return
        chunk = os.read(0, 4096)
        self.pending += chunk
        *lines, self.pending = self.pending.split(b"\n")
        for command in (line.strip().decode("ascii", "replace") for line in lines):
            if command == "detach":
                self.detached = True
            elif command == "kill" or (command == "stop" and not self.wanted):
                self.wanted = command
        if not chunk:
            self.deaf = True
            if not self.detached:
                self.wanted = self.wanted or "stop"

    def poll(self) -> int | None:
        """Reap adopted descendants, and return the server's exit status if it has ended."""
        server = self.server
        if server is None:
            return 0
        status = server.poll()
        with contextlib.suppress(ChildProcessError):
            while True:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if info is None or info.si_pid == server.pid:
                    break
                os.waitpid(info.si_pid, 0)
        return status

    def end(self) -> None:
        """End what is left in stages: SIGTERM to the server, SIGTERM to all, SIGKILL to all; then verify.

        The command `kill` cuts the waiting short at any point.
        """
        server = self.server
        if server is not None and server.poll() is None and self.wanted != "kill":
            self.tell("stage", name="SIGTERM to the server")
            with contextlib.suppress(ProcessLookupError):
                server.send_signal(signal.SIGTERM)
            self.wait_for_end(self.grace, server_only=True)
        self.wait_for_end(min(self.grace, 2.0))  # a server that has ended gives its engines a moment
        if self.left() and self.wanted != "kill":
            self.tell("stage", name="SIGTERM to every process")
            self.signal_all(signal.SIGTERM)
            self.wait_for_end(self.grace)
        for _ in range(10):
            if not self.left():
                break
            self.tell("stage", name="SIGKILL to every process")
            self.signal_all(signal.SIGKILL)
            self.wait_for_end(2.0, patient=True)
        self.tell("stopped", left=self.left(), status=server.poll() if server is not None else None)

    def left(self) -> list[int]:
        """Return the processes of this run that live, and reap those that do not."""
        self.poll()
        return descendants(os.getpid())

    def signal_all(self, number: int) -> None:
        """Send a signal to every process of this run."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def wait_for_end(self, seconds: float, *, server_only: bool = False, patient: bool = False) -> None:
        """Wait until nothing is left (or the server alone is gone), at most `seconds`, or until `kill` comes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (patient or self.wanted != "kill"):
            over = self.poll() is not None if server_only else not self.left()
            if over:
                return
            self.listen()

    def tell(self, event: str, **details: object) -> None:
        """Write one event; nobody may be listening any more."""
        with contextlib.suppress(OSError):
            os.write(1, json.dumps({"event": event, **details}).encode() + b"\n")


def _request() -> tuple[dict[str, object], bytes]:
    """Return the request, and what came after it."""
    received = b""
    while b"\n" not in received:
        chunk = os.read(0, 65536)
        if not chunk:
            raise SystemExit("no request came")
        received += chunk
    line, _, rest = received.partition(b"\n")
    return json.loads(line), rest


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    adopt_orphans()
    Supervisor(*_request()).run()
