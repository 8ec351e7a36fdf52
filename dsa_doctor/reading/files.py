"""Reads one file or standard input whole, within bounds, whatever kind of file it is."""

import errno
import io
import os
import select
import stat
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from dsa_doctor.reading.compression import compression_of, decompressed
from dsa_doctor.reading.errors import ReadingError
from dsa_doctor.reading.text import decode

STANDARD_INPUT = Path("-")
_PIECE = 1 << 18
_WRITER_TIMEOUT = 10.0
"""Seconds that a named pipe waits for somebody to write to it. What was opened for us, as <(...), has a writer."""

_FOREIGN = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a zip archive",
    b"\x7fELF": "an executable or shared object",
    b"\x80\x02": "a pickle",
    b"\x89PNG": "a picture",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy file",
}


def read_file(path: Path, *, limit: int, exact: bool = True) -> str:
    """Return the text of a file, decompressed and decoded; `-` is standard input.

    Args:
        path: a file, a pipe, or `-`.
        limit: most bytes, decompressed.
        exact: whether a byte that is no text is an error; else it becomes U+FFFD.

    Raises:
        ReadingError: there is no such file, it is none, it is not text, or it is larger than `limit`.
    """
    return decode(read_bytes(path, limit=limit), exact=exact)


def read_bytes(path: Path, *, limit: int) -> bytes:
    """Return the bytes of a file, decompressed; `-` is standard input.

    A folder, a device (but /dev/null, which is empty) and a named pipe that nobody writes to are refused.

    Raises:
        ReadingError: see `read_file`.
    """
    try:
        data = _standard_input(limit) if path == STANDARD_INPUT else _file(path, limit)
    except OSError as error:
        reason = "no such file" if error.errno == errno.ENOENT else error.strerror or type(error).__name__
        raise ReadingError(f"cannot be read ({reason})") from error
    if (compression := compression_of(data[:6])) is not None:
        return _joined(decompressed(io.BytesIO(data), compression), limit, f"once its {compression} is unpacked")
    _refuse_foreign(data[:16])
    return data


def is_safetensors(start: bytes) -> bool:
    """Whether the first 16 bytes are those of a safetensors file: a length of eight bytes, then a JSON object."""
    return len(start) >= 10 and start[6:8] == b"\0\0" and start[8:10] in {b'{"', b"{ ", b"{}"}


def _refuse_foreign(start: bytes) -> None:
    what = next((what for magic, what in _FOREIGN.items() if start.startswith(magic)), None)
    if what is None and is_safetensors(start):
        what = "a safetensors file"
    if what is not None:
        raise ReadingError(f"cannot be read (it is {what}, not text)")


def _standard_input(limit: int) -> bytes:
    stream = sys.stdin.buffer if hasattr(sys.stdin, "buffer") else None
    if stream is None:
        raise ReadingError("cannot be read (standard input is closed)")
    if stream.isatty():
        sys.stderr.write("dsa-doctor: reading from the terminal; end with Ctrl-D.\n")
        sys.stderr.flush()
    return _joined(iter(lambda: stream.read(_PIECE), b""), limit)


def _file(path: Path, limit: int) -> bytes:
    # Without O_NONBLOCK, opening a named pipe waits for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise ReadingError("cannot be read (it is a folder)")
        if stat.S_ISCHR(mode) and status.st_rdev == os.makedev(1, 3):
            return b""
        if stat.S_ISREG(mode) and status.st_size > limit:
            _refuse_foreign(os.pread(descriptor, 16, 0))
            raise _too_large(limit)
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or os.isatty(descriptor)):
            raise ReadingError("cannot be read (it is a device or a socket, not a file)")
        return _joined(_chunks(descriptor), limit)
    finally:
        os.close(descriptor)


def _chunks(descriptor: int) -> Iterable[bytes]:
    """Yield what a descriptor that does not block has to give."""
    pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    deadline = time.monotonic() + _WRITER_TIMEOUT
    begun = False
    while True:
        try:
            chunk = os.read(descriptor, _PIECE)
        except BlockingIOError:  # somebody has it open and has written nothing yet
            begun = True
            select.select([descriptor], [], [])
            continue
        if chunk:
            begun = True
            yield chunk
        elif not pipe or begun:
            return
        elif time.monotonic() > deadline:
            raise ReadingError(f"cannot be read (a pipe that nobody wrote to within {_WRITER_TIMEOUT:.0f} s)")
        else:
            time.sleep(0.02)


def _joined(chunks: Iterable[bytes], limit: int, when: str = "") -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > limit:
            raise _too_large(limit, when)
    return bytes(data)


def _too_large(limit: int, when: str = "") -> ReadingError:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return ReadingError(f"cannot be read (larger than {size}{' ' if when else ''}{when})")
