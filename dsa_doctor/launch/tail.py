"""Reads a growing log file: this run's part of it, whole lines, bounded in memory and in the time that a look takes."""

import io
import os
import re
import threading
from pathlib import Path
from typing import Any

_ENDS = re.compile(rb"\r\n|\n|\r")
_LONGEST = 1 << 16
_MARK = 64
_ROUND = 4 << 20
"""Bytes of one look: at some 20 MB/s of reading lines, a fifth of a second."""
_FARTHEST = 64 << 20
"""A server that writes faster than lines can be read is followed no farther behind than this."""


class LogFile:
    """A log opened once: renamed or removed it stays the same file, cut short it is read from its new beginning.

    Attributes:
        path: where it was opened.
        start: byte at which this run's part begins.
        cuts: how often it was cut short.
    """

    def __init__(self, path: Path, start: int) -> None:
        """Open it.

        Args:
            path: the file.
            start: byte at which this run's part begins.

        Raises:
            OSError: it cannot be read.
        """
        self.path = path
        self.start = start
        self.cuts = 0
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._mark_at = max(0, start - _MARK)
        self._mark = self.read(self._mark_at, start - self._mark_at)

    def size(self) -> int:
        """Return the size in bytes, after a look whether the file was cut short: `start` and `cuts` then change.

        What stands before this run's part tells, whatever was written since: a size alone may have grown again.
        """
        with self._lock:
            if self.read(self._mark_at, len(self._mark)) != self._mark:
                self.start, self._mark_at, self._mark = 0, 0, b""
                self.cuts += 1
            if not self._mark:
                self._mark = self.read(0, _MARK)
        return os.fstat(self._descriptor).st_size

    def disk_is_full(self) -> bool:
        """Whether the file system has no room for another block of this file."""
        return os.fstatvfs(self._descriptor).f_bavail == 0

    def read(self, position: int, count: int) -> bytes:
        """Return at most `count` bytes from a position on."""
        return os.pread(self._descriptor, count, position)

    def lines_before(self) -> int:
        """Return the number of lines before this run's part."""
        position = lines = 0
        while chunk := self.read(position, min(_ROUND, self.start - position)):
            lines += chunk.count(b"\n")
            position += len(chunk)
        return lines

    def own_part(self) -> io.BufferedReader:
        """Return this run's part as a stream of bytes."""
        return io.BufferedReader(_Part(self))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class _Part(io.RawIOBase):
    def __init__(self, log: LogFile) -> None:
        self._log = log
        self._position = log.start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._log.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class Tail:
    """Reads what was added to a log since the last time; carriage returns of progress bars count as line ends."""

    def __init__(self, log: LogFile) -> None:
        self._log = log
        self._position = log.start
        self._cuts = log.cuts
        self._rest = b""

    def is_at_end(self) -> bool:
        """Whether everything was read."""
        return self._position == self._log.size()

    def read(self) -> list[str]:
        """Return new whole lines, of 4 MiB at most; a line without end is cut at 64 KiB."""
        size = self._log.size()
        if self._cuts != self._log.cuts:
            self._cuts, self._position, self._rest = self._log.cuts, 0, b""
        if size - self._position > _FARTHEST:
            self._position, self._rest = size - _ROUND, b""
        new = self._log.read(self._position, _ROUND)
        self._position += len(new)
        parts = _ENDS.split(self._rest + new)
        self._rest = parts.pop()
        if len(self._rest) > _LONGEST:
            parts.append(self._rest)
            self._rest = b""
        return [part.decode("utf-8", "replace") for part in parts if part]
