"""What a classifier makes of one passage."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.remedies import Remedy
from dsa_doctor.explain.text import Line
from dsa_doctor.verdict.schema import Backend

_FRAME = re.compile(r'File "([^"\n]{1,400})", line (\d{1,7})(?:, in (\S{1,200}))?')


class Frame(NamedTuple):
    """One frame of a Python traceback; `path` has forward slashes."""

    path: str
    function: str
    line: Line


@dataclass
class Sighting:
    """Evidence of one finding.

    Attributes:
        id: the finding.
        lines: the evidence, the most telling line first; its number is the finding's.
        details: values that the summary names; those of further sightings are added.
        weak: dropped unless the log shows an error and no server that came up.
        without_dsa: the finding it is instead where the log's model has no sparse attention; "" for none at all.
        unless_earlier: dropped where another finding comes first, of which it is a usual consequence.
        backends: what the selector said of each backend.
        remedy: stands before the usual remedy.
        decided: whether the passage itself tells which of the finding's possible causes it is.
    """

    id: str
    lines: list[Line]
    details: dict[str, str] = field(default_factory=dict)
    weak: bool = False
    without_dsa: str | None = None
    unless_earlier: bool = False
    backends: tuple[Backend, ...] = ()
    remedy: tuple[Remedy | str, ...] = ()
    decided: bool = False


Classifier = Callable[[Passage], list[Sighting]]
"""Judges the passage around one needle; an empty list says that it is evidence of nothing."""


def traceback_of(passage: Passage) -> list[Frame]:
    """Return the frames of the traceback that ends at the passage, outermost first; empty where there is none.

    Of chained exceptions it is the last one's traceback. An excerpt that lost its head is taken as far as it goes.
    """
    frames: list[Frame] = []
    for line in passage.backwards():
        if line.text.lstrip(" |+").startswith("Traceback (most recent call last)"):
            break
        found = _FRAME.search(line.text)
        if found:
            frames.append(Frame(found.group(1).replace("\\", "/"), found.group(3) or "", line))
        elif frames and (line.is_exception_line or line.text.startswith(("During handling", "The above exception"))):
            break
    return frames[::-1]


def mentions(frames: list[Frame], pattern: re.Pattern[str]) -> Frame | None:
    """Return the innermost frame whose path, function or echoed source matches, or None."""
    for frame in reversed(frames):
        if pattern.search(f"{frame.path} {frame.function}"):
            return frame
    return None
