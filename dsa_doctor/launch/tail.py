"""Follows a growing log file: whole lines, carriage returns of progress bars taken as line ends, bounded in memory."""

import re
from pathlib import Path

_ENDS = re.compile(rb"\r\n|\n|\r")
_LONGEST = 1 << 16


class Tail:
    """Reads what was added to a file since the last time."""

    def __init__(self, file: Path, offset: int) -> None:
        """Follow `file` from a byte offset."""
        self._stream = file.open("rb")
        self._stream.seek(offset)
        self._rest = b""

    def read(self) -> tuple[bytes, list[str]]:
        """Return (the new bytes as they are, the new whole lines); a line without end is cut at 64 KiB."""
        new = self._stream.read(1 << 20)
        parts = _ENDS.split(self._rest + new)
        self._rest = parts.pop()
        if len(self._rest) > _LONGEST:
            parts.append(self._rest)
            self._rest = b""
        return new, [part.decode("utf-8", "replace") for part in parts if part]

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
