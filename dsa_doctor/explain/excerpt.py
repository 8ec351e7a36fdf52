"""The parts of a log that are read line by line: its start, the surroundings of trouble, and its end."""

from dsa_doctor.explain.reader import MAX_AFTER, Passage
from dsa_doctor.explain.text import Line, parse_line

_BEFORE = 48 << 10
_AFTER = 16 << 10
_MOST = 3 << 20
_PARTS = 30


class Excerpt:
    """Keeps raw lines by their number, in bounded memory."""

    def __init__(self) -> None:
        self._lines: dict[int, bytes] = {}
        self._size = 0
        self._parts = [0, 0]
        self._covered = (0, -1)

    def keep(self, passage: Passage, *, telling: bool) -> None:
        """Keep the lines around a passage, unless they are kept already or there are enough.

        Args:
            passage: where something was found.
            telling: whether it says that a process ended, or is a failure that is known: such places are kept apart
                from the many that only speak of errors.
        """
        number = passage.line.number
        if self._covered[0] <= number <= self._covered[1] or self.full(telling=telling):
            return
        self._parts[telling] += 1
        first, raw = passage.surroundings(_BEFORE, _AFTER)
        self._add(first, raw)
        self._covered = (number, first + len(raw) - 1)

    def full(self, *, telling: bool) -> bool:
        """Whether nothing more is kept of places of this kind."""
        return self._parts[telling] >= _PARTS or self._size > _MOST

    def end(self, first: int, raw: list[bytes]) -> None:
        """Keep the log's last lines, whatever was kept before."""
        self._add(first, raw)

    def _add(self, first: int, raw: list[bytes]) -> None:
        for number, line in enumerate(raw, first):
            if number not in self._lines:
                kept = line[:MAX_AFTER]
                self._lines[number] = kept
                self._size += len(kept) + 64

    def lines(self) -> list[Line]:
        """Return what was kept, in order."""
        return [
            parse_line(number, self._lines[number].rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace"))
            for number in sorted(self._lines)
        ]
