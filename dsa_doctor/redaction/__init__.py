"""Keeps secrets, user names and host names out of every text that leaves: reports, evidence, logs for an issue."""

from collections.abc import Iterable
from typing import NamedTuple

from ahocorasick_rs import BytesAhoCorasick

from dsa_doctor.redaction.assignments import assigned_secrets
from dsa_doctor.redaction.kinds import KINDS
from dsa_doctor.redaction.names import name_spans

SECRET = "<secret>"  # noqa: S105 - what stands in its place

_KEYWORDS = tuple((keyword.encode(), kind) for kind in KINDS for keyword in kind.keywords)
_AUTOMATON = BytesAhoCorasick([keyword for keyword, _ in _KEYWORDS])
"""Looks for every keyword at once: most texts hold none."""


class Span(NamedTuple):
    """A part of a text, and what is shown in its place."""

    start: int
    end: int
    shown: str


def redact(text: str) -> str:
    """Return `text` with secrets, home folders, e-mail addresses, the user name and the host name replaced.

    The time is linear in the length of the text, whatever it is. What is redacted already stays as it is.
    """
    pieces, position = [], 0
    for span in find(text):
        pieces += [text[position : span.start], span.shown]
        position = span.end
    return "".join([*pieces, text[position:]]) if position else text


def find(text: str) -> list[Span]:
    """Return what has to be replaced in `text`, in order and without overlaps."""
    secrets = [(start, end) for start, end in assigned_secrets(text)]
    hits = _AUTOMATON.find_matches_as_indexes(text.lower().encode("utf-8", "surrogatepass"), overlapping=True)
    for kind in {_KEYWORDS[hit[0]][1] for hit in hits}:
        secrets += [match.span(match.lastindex or 0) for match in kind.pattern.finditer(text)]
    return _merged([Span(start, end, SECRET) for start, end in secrets], name_spans(text))


def last_lines(text: str, count: int = 6, width: int = 300) -> tuple[str, ...]:
    """Return the last `count` non-empty lines of `text`, redacted and clipped to `width` characters."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(redact(line)[:width] for line in lines[-count:])


def _merged(secrets: list[Span], names: Iterable[tuple[int, int, str]]) -> list[Span]:
    """Join what overlaps; of a name within a secret only the secret is left."""
    found: list[Span] = []
    for span in sorted([*secrets, *(Span(*name) for name in names)]):
        if span.start == span.end:
            continue
        if found and span.start < found[-1].end:
            last = found[-1]
            shown = last.shown if span.end <= last.end and last.shown == SECRET else SECRET
            if SECRET not in (last.shown, span.shown):
                shown = last.shown  # two names over the same text: the one that starts first
            found[-1] = Span(last.start, max(last.end, span.end), shown)
        else:
            found.append(span)
    return found
