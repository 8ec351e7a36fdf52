"""Runs a command under a guard: bounded in time and output, and gone with this process, however that ends."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

_GUARD = Path(__file__).with_name("guard.py")
_KEPT = 64 << 10
_JOIN_SECONDS = 2.0

_living: set["Child"] = set()
_scratch: set[Path] = set()
_lock = threading.Lock()
_closed = False


class Child:
    """A running command. With its guard it ends when this object's `end` is called, or when this process is gone.

    Attributes:
        start_error: after `wait`, why the command could not be run; None where it could.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it, in a session of its own; streams, `folder` (to run in) and `pass_fds` as for subprocess.Popen.

        Raises:
            OSError: `folder` is none, or no process can be made. A command that cannot be run shows in `start_error`.
        """
        self.start_error: str | None = None
        self._line, self._guard = _start_guard(
            [os.fspath(part) for part in command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if environment is None else dict(environment),
            cwd=folder,
            pass_fds=pass_fds,
        )
        with _lock:
            _living.add(self)
            closed = _closed
        if closed:
            self.end()

    @property
    def runs(self) -> bool:
        """Whether anything of it is left."""
        return self._guard.poll() is None

    def end(self) -> None:
        """Ask for the end of the command and of everything that it started, without waiting for it."""
        with contextlib.suppress(OSError):  # it has ended
            self._line.shutdown(socket.SHUT_WR)

    def take_streams(self) -> tuple[IO[Any] | None, IO[Any] | None]:
        """Return standard output and error for the caller to read and close; `feed` no longer looks at them."""
        taken = self._guard.stdout, self._guard.stderr
        self._guard.stdout = self._guard.stderr = None
        return taken

    def feed(self, content: bytes, timeout: float | None) -> None:
        """Write `content` to standard input, close that, and wait for the end.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds it still runs.
        """
        self._guard.communicate(content, timeout=timeout)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until nothing of the command is left; return its exit status, negative for the signal it died of.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds it still runs.
        """
        self._guard.wait(timeout)
        with _lock:
            _living.discard(self)
            closed = _closed
        if closed:  # a signal ended it: whoever waits here must not report that as a result
            threading.Event().wait()
        events = self._events()
        self._line.close()
        if "error" in events:
            self.start_error = os.strerror(events["error"])
            return 127
        if "status" not in events and "pid" in events:  # the guard was killed, and what it started has its session
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(events["pid"], signal.SIGKILL)
        return events.get("status", -signal.SIGKILL)

    def _events(self) -> dict[str, int]:
        said = b""
        self._line.settimeout(_JOIN_SECONDS)
        with contextlib.suppress(OSError):
            while chunk := self._line.recv(4096):
                said += chunk
        found: dict[str, int] = {}
        for line in said.decode().splitlines():
            what, _, number = line.partition(" ")
            found[what] = int(number)
        return found


@dataclass(frozen=True)
class Ended:
    """What became of a command.

    Attributes:
        status: `ended`, or why there is no exit status.
        code: exit status, negative for the signal it died of; 0 where there is none.
        stdout: what was kept of its output.
        stderr: likewise; empty where both streams were merged.
        answer: what came through the extra pipe.
        problem: what went wrong: "died of SIGSEGV", "gave no answer within 5 s", or why it could not be started (as
            the system says it); empty for exit status 0.
        seconds: wall-clock time.
    """

    status: Literal["ended", "timeout", "not_started"]
    code: int
    stdout: bytes
    stderr: bytes
    answer: bytes
    problem: str
    seconds: float


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout: float | None,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
    merge: bool = False,
    keep_stdout: int = _KEPT,
    answer_variable: str | None = None,
    keep_answer: int = 0,
) -> Ended:
    """Run a command to its end; never raises for what it does.

    Args:
        command: argument vector.
        timeout: seconds after which it is killed with everything that it started; None waits.
        given: its standard input.
        environment: its whole environment; None inherits.
        merge: send its standard error into its standard output.
        keep_stdout: bytes of output to keep: the last ones, where it is merged; else the first.
        answer_variable: environment variable that names the descriptor of an extra pipe; None makes no such pipe.
        keep_answer: bytes of that pipe to keep, the first ones.
    """
    start = time.monotonic()
    collectors: dict[str, _Collector] = {}
    write_end = -1
    variables = dict(os.environ if environment is None else environment)
    if answer_variable is not None:
        read_end, write_end = os.pipe()
        variables[answer_variable] = str(write_end)
        collectors["answer"] = _Collector(os.fdopen(read_end, "rb"), first=keep_answer)
    try:
        child = Child(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            environment=variables,
            pass_fds=(write_end,) if write_end >= 0 else (),
        )
    except OSError as error:
        for one in collectors.values():
            one.close()
        return _not_started(error.strerror or type(error).__name__)
    finally:
        if write_end >= 0:
            os.close(write_end)
    stdout, stderr = child.take_streams()
    collectors["stdout"] = _Collector(stdout, last=keep_stdout) if merge else _Collector(stdout, first=keep_stdout)
    if not merge:
        collectors["stderr"] = _Collector(stderr, last=_KEPT)
    for one in collectors.values():
        one.start()
    timed_out = False
    try:
        child.feed(given, timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        child.end()
        code = child.wait()
    for one in collectors.values():
        one.join(_JOIN_SECONDS)
    if child.start_error is not None:
        return _not_started(child.start_error)
    kept = {name: one.collected() for name, one in collectors.items()}
    return Ended(
        "timeout" if timed_out else "ended",
        0 if timed_out else code,
        kept["stdout"],
        kept.get("stderr", b""),
        kept.get("answer", b""),
        f"gave no answer within {timeout:.0f} s" if timed_out else ending(code),
        time.monotonic() - start,
    )


def ending(code: int) -> str:
    """Return how a process with this status ended, as a phrase: "died of SIGSEGV"; empty for 0."""
    if code >= 0:
        return f"ended with exit status {code}" if code else ""
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have no names
        return f"died of signal {-code}"


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Give a new folder that is removed afterwards, also where this process is killed meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    with _lock:
        _scratch.add(folder)
    line, keeper = _start_guard(["--folder", os.fspath(folder)])
    try:
        yield folder
    finally:
        remove(folder)
        with _lock:
            _scratch.discard(folder)
        line.close()
        keeper.wait()


def end_children(patience: float, *, for_good: bool = False) -> bool:
    """End every child of this process and wait; return whether all are gone within `patience` seconds.

    Args:
        patience: seconds to wait.
        for_good: this process is about to end: whatever is started from now on ends at once, and scratch folders go.
    """
    global _closed
    deadline = time.monotonic() + patience
    with _lock:
        _closed = _closed or for_good
        children, folders = list(_living), list(_scratch) if for_good else []
    for one in children:
        one.end()
    gone = True
    for one in children:
        try:
            one._guard.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            gone = False
    for folder in folders:
        if time.monotonic() < deadline:  # what takes longer is left to its keeper
            remove(folder)
    return gone


class ChildPool(ThreadPoolExecutor):
    """Threads that wait for children. Left by an interrupt, it ends them rather than waiting for them."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.shutdown(wait=False, cancel_futures=True)
            end_children(_JOIN_SECONDS)
        else:
            self.shutdown()


def remove(folder: Path) -> None:
    """Remove a folder with what is in it, whatever of it is already gone."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


class _Collector(threading.Thread):
    """Drains a pipe, so that a talkative child never stalls, and keeps a bounded part of what came."""

    def __init__(self, stream: IO[Any] | None, *, first: int = 0, last: int = 0) -> None:
        super().__init__(daemon=True)
        assert isinstance(stream, io.BufferedReader)
        self._stream = stream
        self._first, self._last = first, last
        self._kept = bytearray()

    def run(self) -> None:
        with self._stream as stream:
            while chunk := stream.read1(65536):
                if self._last:
                    self._kept += chunk
                    del self._kept[: -self._last]
                elif len(self._kept) <= self._first:
                    self._kept += chunk

    def close(self) -> None:
        """Close the pipe without reading it."""
        self._stream.close()

    def collected(self) -> bytes:
        """Return what was kept."""
        return bytes(self._kept)


def _start_guard(arguments: list[str], **options: Any) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """Start a guard; return this end of its lifeline, and the process."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    try:
        pass_fds = (number, *options.pop("pass_fds", ()))
        command = [sys.executable, "-I", "-S", os.fspath(_GUARD), str(number), *arguments]
        return ours, subprocess.Popen(command, pass_fds=pass_fds, start_new_session=True, **options)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def _not_started(reason: str) -> Ended:
    return Ended("not_started", 0, b"", b"", b"", reason, 0.0)
