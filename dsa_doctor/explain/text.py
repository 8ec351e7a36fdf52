"""Lines of logs without what differs between ranks, launchers and terminals. Every pattern is bounded."""

import re
from typing import NamedTuple

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]{0,32}[ -/]?[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_RANK = re.compile(r"\([\w.:\- ]{0,80}pid=\d{1,9}[^)\n]{0,80}\)|\[rank\d{1,5}\]")
_SGLANG_RANK = re.compile(r"\[[\d\-:., ]{10,32}((?:\s[A-Z]{2,3}\d{1,4}){1,4})\]")
_LEVEL = re.compile(
    r"(?P<level>ERROR|WARNING|WARN|INFO|DEBUG|CRITICAL|FATAL)[:\s]\s?(?:\d\d-\d\d \d\d:\d\d:\d\d\s)?"
    r"(?:\[?[\w./\\\-]{1,120}:\d{1,6}\]\s?)?"
)
_PREFIXES = (
    re.compile(r"\([\w.:\- ]{0,80}pid=\d{1,9}[^)\n]{0,80}\)[ \t]?"),  # vLLM's and Ray's processes
    re.compile(r"\[rank\d{1,5}\]:[ ]?"),  # torch
    re.compile(r"\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\s"),  # docker -t
    re.compile(r"std(?:out|err)\s[FP]\s"),  # Kubernetes
    re.compile(
        r"[A-Z][a-z]{2}\s{1,2}\d{1,2}\s\d\d:\d\d:\d\d\s[\w.\-]{1,64}\s[\w./\-]{1,64}\[\d{1,9}\]:[ ]?"
    ),  # journald
    re.compile(r"\[[\d\-:., TZ]{8,40}(?:\s[A-Z]{2,3}\d{1,4}){0,4}\][ ]?"),  # sglang, buildkite
    re.compile(r"[\w.\-]{1,64}\s{0,20}\|[ ]"),  # docker compose
    re.compile(r"[|>+\-][ ]{0,2}(?=\S)"),  # quotes and differences
)
_EXCEPTION = re.compile(r"(?:^|[\s(`'\"*])[A-Za-z_][\w.]{0,120}(?:Error|Exception|OutOfResources|Interrupt)\b\s?[:(]")
_ECHO = re.compile(r"\s*(?:raise |logger\.|self\.|assert |return |if |elif |#|def |\"|')")


class Line(NamedTuple):
    """One line of a log.

    Attributes:
        number: counted from 1.
        text: without colours, control characters, rank, time and level.
        rank: what names the process, or "".
        level: what the logger calls the line ("ERROR"), or "".
    """

    number: int
    text: str
    rank: str
    level: str

    @property
    def is_exception(self) -> bool:
        """Whether the line shows an exception with its message."""
        return _EXCEPTION.search(self.text) is not None

    @property
    def is_source(self) -> bool:
        """Whether the line looks like source code, as tracebacks and patches echo it."""
        return _ECHO.match(self.text) is not None and not self.is_exception_line

    @property
    def is_exception_line(self) -> bool:
        """Whether the line begins with an exception's name."""
        return re.match(r"\s*[A-Za-z_][\w.]{0,120}(?:Error|Exception|OutOfResources)\b\s?[:(]", self.text) is not None

    @property
    def is_remark(self) -> bool:
        """Whether the logger itself says that it is no error."""
        return self.level in {"INFO", "DEBUG", "WARNING", "WARN"} and not self.is_exception


def clean(raw: str) -> str:
    """Return text without colours and control characters; of a progress line that was rewritten, every part."""
    if "\x1b" in raw:
        raw = _ANSI.sub("", raw)
    return _CONTROL.sub(" ", raw)


def parse_line(number: int, raw: str) -> Line:
    """Split one raw line into its prefix and its text; `raw` should be at most a few thousand characters."""
    text = clean(raw).rstrip()
    head = text[:300]
    rank_match = _RANK.search(head)
    rank = rank_match.group() if rank_match else ""
    if not rank and (sglang := _SGLANG_RANK.search(head)):
        rank = sglang.group(1).strip()
    level, position = "", 0
    for _ in range(8):
        rest = text[position : position + 400]
        indent = len(rest) - len(rest.lstrip()) if not level else 0
        found = _LEVEL.match(rest, indent)
        if found and not level:
            level, position = found.group("level"), position + found.end()
            continue
        match = next((match for prefix in _PREFIXES if (match := prefix.match(rest, indent))), None)
        if match is None:
            break
        position += match.end()
    return Line(number, text[position:], rank, level)


def joined(lines: list[Line]) -> str:
    """Return the texts of lines as one string with single spaces: a message that was wrapped becomes whole again."""
    return " ".join(" ".join(line.text.split()) for line in lines)
