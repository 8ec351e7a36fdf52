"""Standard streams that may be full, closed, or read by nobody: lost output is told once, never as a traceback."""

import errno
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any, TextIO


class OutputLostError(Exception):
    """Standard output cannot be written; the message says why. No OSError, so that nobody takes it for another file's.

    Attributes:
        number: errno of the failed write; EBADF where it was closed from the start.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        if number == errno.EPIPE:
            super().__init__("the reader of standard output went away; the rest was not written")
        elif number == errno.EBADF:
            super().__init__("standard output is closed; nothing was written to it")
        else:
            super().__init__(f"standard output cannot be written ({os.strerror(number)}); what it holds is incomplete")


class _Raw(io.RawIOBase):
    """An inherited descriptor; a failed write raises OutputLostError, or is passed over where nothing rests on it."""

    def __init__(self, descriptor: int, *, closed_at_start: bool, needed: bool) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost = errno.EBADF if closed_at_start else 0
        self._needed = needed

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        if not self._lost:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                raise
            except OSError as error:
                self._lost = error.errno or errno.EIO
        if self._needed:
            raise OutputLostError(self._lost)
        return len(data)


def guard_streams() -> None:
    """Let lost output be told in one way: standard output raises OutputLostError, standard error is best effort.

    A descriptor that was closed is taken by the null device, since the next file that is opened would get its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    if sys.stdin is None:
        sys.stdin = _ClosedInput(io.BytesIO())
    sys.stdout = _guarded(sys.stdout, 1, needed=True)
    sys.stderr = _guarded(sys.stderr, 2, needed=False)


def _guarded(stream: TextIO | None, number: int, *, needed: bool) -> TextIO:
    raw = _Raw(number, closed_at_start=stream is None, needed=needed)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=getattr(stream, "errors", None) or "replace",
        line_buffering=getattr(stream, "line_buffering", False) or not needed,
        write_through=getattr(stream, "write_through", False),
    )


class _ClosedInput(io.TextIOWrapper):
    """Standard input that was closed from the start: reading it is an error, not an empty file."""

    @property
    def buffer(self) -> Any:
        raise OSError(errno.EBADF, "standard input is closed")

    def read(self, size: int | None = -1, /) -> str:  # noqa: ARG002 - the signature of a text stream
        raise OSError(errno.EBADF, "standard input is closed")


def abandon_output() -> None:
    """Let nothing more be written to standard output: the interpreter's own flush at exit would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - it lasts until the process ends


def write_file(path: Path, content: bytes) -> None:
    """Write a file that the user named, without cutting off what somebody else is writing into it.

    A name of an open descriptor (/dev/stdout, /dev/fd/3, the file that standard output is redirected to) is written
    through that descriptor, at its place; a pipe or a device is not truncated.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = _open_descriptor(path)
    if descriptor is not None:
        if descriptor in (1, 2):
            (sys.stdout if descriptor == 1 else sys.stderr).flush()
        with open(os.dup(descriptor), "wb") as stream:  # noqa: PTH123 - a descriptor, not a path
            stream.write(content)
        return
    regular = not path.exists() or stat.S_ISREG(path.stat().st_mode)
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if regular else 0)
    with open(os.open(path, flags, 0o666), "wb") as stream:  # noqa: PTH123
        stream.write(content)


def _open_descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that the path names or that has the same file open for writing."""
    text = os.fspath(path)
    named = {"/dev/stdout": 1, "/dev/stderr": 2}.get(text)
    if named is not None:
        return named
    for folder in ("/dev/fd/", "/proc/self/fd/"):
        if text.startswith(folder) and text[len(folder) :].isdigit():
            return int(text[len(folder) :])
    try:
        target = path.stat()
    except OSError:
        return None
    for number in (1, 2):
        if stat.S_ISREG(target.st_mode) and os.path.samestat(target, os.fstat(number)):
            return number
    return None
