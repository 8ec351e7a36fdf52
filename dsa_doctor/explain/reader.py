"""Reads a log of any size as a stream and finds where it says something, in memory that does not grow.

One automaton looks for every needle at once, in bytes; only the surroundings of a hit are decoded. Repeated hits are
counted, not looked at again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import BinaryIO

from ahocorasick_rs import BytesAhoCorasick, Implementation

from dsa_doctor.explain.source import BLOCK, Source
from dsa_doctor.explain.text import Line, clean, parse_line

LOOK_BEHIND = 256 << 10
LOOK_AHEAD = 16 << 10
MAX_BEFORE = 1 << 10
MAX_AFTER = 6 << 10
"""Bytes of one line that are ever decoded, before and after the hit: the longest message is the selector's."""

REQUESTS = (b"Received request", b"Receive: obj=", b"Finish: obj=", b"Generated response", b"Adding request")
"""What begins the record of a request; the prompt in it may quote any error."""
REQUEST_ENDS = (b"SamplingParams(", b"PoolingParams(", b"sampling_params", b", params:")
MAX_REQUEST = 64 << 10

# Bounds on the work, per needle wherever that matters, so that one that is everywhere hides no other: hits of a block
# that are compared with earlier ones; passages that are always looked at in full, and those while the total allows it;
# then passages per block.
_VISITED_FIRST = 12288
_VISITED_PER_BLOCK = 64
_ALWAYS_FULL = 8
_FULL_PASSAGES = 100
_FULL_TOTAL = 2000
_FULL_PER_BLOCK = 24
_SAME_TEXT = 8


@dataclass
class Passage:
    """One hit with its surroundings.

    Attributes:
        needle: index of the needle.
        key: identifies the text around the hit.
        line: the line of the hit.
    """

    needle: int
    key: bytes
    line: Line
    _buffer: bytes = field(repr=False)
    _position: int = field(repr=False)
    _start: int = field(repr=False)
    _end: int = field(repr=False)
    _behind: int = field(repr=False)

    def near(self) -> str:
        """Return the text right around the hit, of a line that may be endless."""
        low, high = max(self._start, self._position - 200), min(self._end, self._position + 600)
        return clean(self._buffer[low:high].decode("utf-8", "replace"))

    def backwards(self, count: int = 400) -> Iterator[Line]:
        """Yield up to `count` lines before the hit that the same process wrote, the nearest first."""
        low = max(0, self._start - self._behind)
        pieces = self._buffer[low : self._start].split(b"\n")[:-1]
        rank = self.line.rank.encode()
        yielded = 0
        for distance, raw in enumerate(reversed(pieces[-8 * count :]), 1):
            if rank and b"pid=" in raw[:300] and rank not in raw:
                continue  # another process, without the cost of parsing
            line = parse_line(self.line.number - distance, raw[:MAX_AFTER].decode("utf-8", "replace"))
            if line.rank == self.line.rank or not line.rank:
                yield line
                yielded += 1
                if yielded == count:
                    return

    def surroundings(self, before: int, after: int) -> tuple[int, list[bytes]]:
        """Return the whole lines within so many bytes before and after the hit, with the number of the first."""
        low = max(0, self._start - before)
        if low:
            low = self._buffer.find(b"\n", low, self._start) + 1 or self._start
        high = min(len(self._buffer), self._end + after)
        if high < len(self._buffer):
            high = max(self._buffer.rfind(b"\n", self._end, high), self._end)
        return self.line.number - self._buffer.count(b"\n", low, self._start), self._buffer[low:high].split(b"\n")

    def before(self, count: int) -> list[Line]:
        """Return up to `count` lines before the hit that the same process wrote, oldest first."""
        return list(self.backwards(count))[::-1]

    def after(self, count: int = 40) -> list[Line]:
        """Return the line of the hit and up to `count` lines after it that the same process wrote."""
        lines = [self.line]
        pieces = self._buffer[self._end + 1 : self._end + 1 + LOOK_AHEAD].split(b"\n")
        for number, raw in enumerate(pieces[: 8 * count], self.line.number + 1):
            line = parse_line(number, raw[:MAX_AFTER].decode("utf-8", "replace"))
            if line.rank == self.line.rank or not line.rank:
                lines.append(line)
                if len(lines) > count:
                    break
        return lines


@dataclass(frozen=True)
class Repeats:
    """Hits that were only counted; `key` is that of an earlier passage with the same text, if there was one."""

    needle: int
    key: bytes | None
    count: int


class LogReader:
    """Finds needles in a stream.

    Args:
        needles: byte strings without newlines.
        quotes: how many of the first needles begin a request that is logged: what stands in it is nobody's error.

    Attributes:
        lines: of the whole stream.
        bytes: of the whole stream, as UTF-8.
        tail: the last lines, and the number of the first of them.
        remark: what was wrong with the stream.
        spent: needles whose further hits nobody wants, not even counted.
    """

    def __init__(self, needles: Sequence[bytes], *, quotes: int = 0) -> None:
        self._automaton = _automaton(tuple(needles))
        self._seen: dict[bytes, int] = {}
        self._full = Counter[int]()
        self._total = 0
        self.lines = 0
        self.bytes = 0
        self.remark = ""
        self.tail: tuple[int, list[bytes]] = (1, [])
        self.spent: set[int] = set()
        self._quotes = quotes
        self._quoted_until = 0
        self._base = 0

    def scan(self, stream: BinaryIO) -> Iterator[Passage | Repeats]:
        """Yield every hit in order; `lines` and `bytes` hold the log's size when it is exhausted."""
        source = Source(stream)
        blocks = source.blocks()
        buffer, fresh, number = b"", 0, 1
        ended = False
        while not ended:
            block = _enough(blocks)
            ended = not block
            self.bytes += len(block)
            buffer += block
            limit = len(buffer) if ended else max(fresh, len(buffer) - LOOK_AHEAD)
            yield from self._search(buffer, fresh, limit, number)
            number += buffer.count(b"\n", fresh, limit)
            cut = max(0, limit - LOOK_BEHIND)
            if cut > LOOK_BEHIND or ended:
                buffer, limit = buffer[cut:], limit - cut
                self._base += cut
            fresh = limit
        self.remark = source.remark
        start = buffer.find(b"\n") + 1 if self._base else 0
        self.tail = (number - buffer.count(b"\n", start), buffer[start:].split(b"\n") if buffer else [])
        self.lines = number - 1 + (0 if buffer.endswith(b"\n") or not self.bytes else 1)

    def _search(self, buffer: bytes, low: int, high: int, number: int) -> Iterator[Passage | Repeats]:
        """Yield the hits that start in [low, high); `number` is the line number at `low`."""
        if low >= high:
            return
        matches = self._automaton.find_matches_as_indexes(buffer[low : high + 256], overlapping=True)
        while matches and low + matches[-1][1] >= high:
            matches.pop()
        if self.spent:
            spent = self.spent
            matches = [match for match in matches if match[0] not in spent]
        counted_to = low
        visited, skipped, budget = Counter[int](), Counter[int](), set[int]()
        rest = matches[_VISITED_FIRST:]
        if rest:  # hits are everywhere: of needles that were seen often enough, the rest is only counted
            often = Counter(map(itemgetter(0), matches[:_VISITED_FIRST]))
            saturated = {
                needle for needle, count in often.items() if count >= _VISITED_PER_BLOCK and needle >= self._quotes
            }
            skipped = Counter(filter(saturated.__contains__, map(itemgetter(0), rest)))
            matches = matches[:_VISITED_FIRST] + [match for match in rest if match[0] not in saturated]
        for needle, offset, _ in matches:
            position = low + offset
            if position >= high:
                continue
            if self._base + position < self._quoted_until:
                continue
            if needle < self._quotes:
                self._quoted_until = self._base + _end_of_request(buffer, position)
                continue
            if visited[needle] >= _VISITED_PER_BLOCK:
                skipped[needle] += 1
                continue
            visited[needle] += 1
            key = needle.to_bytes(2, "big") + buffer[max(0, position - 12) : position + 96]
            seen = self._seen.get(key, 0)
            if seen >= _SAME_TEXT or not self._afford(needle, budget):
                yield Repeats(needle, key if seen else None, 1)
                continue
            self._full[needle] += 1
            self._total += 1
            if seen or self._full[needle] <= _FULL_PASSAGES:
                self._seen[key] = seen + 1
            number += buffer.count(b"\n", counted_to, position)
            counted_to = max(counted_to, position)
            yield self._passage(buffer, needle, key, position, number)
        for needle, count in skipped.items():
            yield Repeats(needle, None, count)

    def _afford(self, needle: int, budget: set[int]) -> bool:
        """Whether one more passage may be looked at in full; `budget` holds those of this block beyond the total."""
        full = self._full[needle]
        if full < _ALWAYS_FULL or (full < _FULL_PASSAGES and self._total < _FULL_TOTAL):
            return True
        if needle in budget or len(budget) >= _FULL_PER_BLOCK:
            return False
        budget.add(needle)
        return True

    def _passage(self, buffer: bytes, needle: int, key: bytes, position: int, number: int) -> Passage:
        low = max(0, position - MAX_BEFORE)
        start = buffer.rfind(b"\n", low, position) + 1 or low
        end = buffer.find(b"\n", position, position + MAX_AFTER)
        if end < 0:
            end = min(len(buffer), position + MAX_AFTER)
        progress = buffer.rfind(b"\r", start, position)  # a progress line rewrites itself: its last state counts
        if progress >= 0:
            start = progress + 1
        line = parse_line(number, buffer[start:end].decode("utf-8", "replace"))
        behind = LOOK_BEHIND if self._full[needle] <= 2 * _SAME_TEXT else 8 << 10  # enough for one traceback
        return Passage(needle, key, line, buffer, position, start, end, behind)


@lru_cache(maxsize=2)
def _automaton(needles: tuple[bytes, ...]) -> BytesAhoCorasick:
    """Return the automaton for `needles`; it holds no state of a search, so one serves every log of the process."""
    return BytesAhoCorasick(needles, implementation=Implementation.DFA)


def _enough(blocks: Iterator[bytes]) -> bytes:
    """Return the next blocks as one: a pipe gives small ones, and each search costs a copy of what is kept."""
    pieces, size = [], 0
    while size < BLOCK // 2 and (block := next(blocks, b"")):
        pieces.append(block)
        size += len(block)
    return b"".join(pieces)


def _end_of_request(buffer: bytes, position: int) -> int:
    """Return where a logged request ends: with its line, or where its parameters follow a prompt of several lines."""
    end = buffer.find(b"\n", position)
    end = len(buffer) if end < 0 else end
    line = buffer[position : min(end, position + LOOK_AHEAD)]
    if b"prompt:" not in line or any(after in line for after in REQUEST_ENDS):
        return end
    found = [buffer.find(after, end, end + MAX_REQUEST) for after in REQUEST_ENDS]
    return min((one for one in found if one >= 0), default=end)
