"""What a log tells in order: exceptions with their chains, whatever their words."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from dsa_doctor.explain.sighting import Frame
from dsa_doctor.explain.text import Line

_HEAD = "Traceback (most recent call last)"
_FRAME = re.compile(r"\s*[|+ ]*File \"(?P<path>[^\"\n]{1,400})\", line \d{1,7}(?:, in (?P<function>\S{1,200}))?")
_RAISED = re.compile(r"(?P<name>[A-Za-z_][\w.]{0,150}?)(?P<group> Group)?(?::(?:\s(?P<message>.*))?|\s*$)")
_KNOWN_NAME = re.compile(
    r"(?:^|\.)\w{0,80}(?:Error|Exception|Exit|Interrupt|OutOfResources|Unsupported|Timeout|TimeoutExpired|Abort|Failure"
    r"|NotFound|NotImplemented)$"
)
_AT_START = re.compile(
    r"(?!nccl|cuda[A-Z])(?P<name>[A-Za-z_][\w.]{0,120}(?:Error|Exception|OutOfResources|Interrupt|TimeoutExpired|Unsupported|SystemExit))"
    r"(?::\s?(?P<message>.*)|\((?P<call>['\"].*)|\s*$)"
)
_INSIDE = re.compile(
    r"(?:^|[\s('\"=<`:])(?P<name>[A-Za-z_][\w.]{0,120}(?:Error|Exception|OutOfResources))(?::\s(?P<message>.*)|\((?P<call>['\"].*))"
)
_FAULT = "Fatal Python error"
_CAUSE = "The above exception was the direct cause of the following exception"
_CONTEXT = "During handling of the above exception, another exception occurred"
_MAX_FRAMES = 200
_MAX_MESSAGE = 6


@dataclass
class Raised:
    """One exception that the log shows.

    Attributes:
        name: its class, with the module where the log has it.
        message: its text; further lines follow after newlines.
        line: where it stands.
        frames: of its traceback, outermost first; empty where there is none.
        before: what it was raised from or while handling, which stands above it.
        meant: whether `before` is its cause ("raise ... from"), not just what was being handled.
        starts: number of the line where its traceback, or that of `before`, begins.
    """

    name: str
    message: str
    line: Line
    frames: list[Frame] = field(default_factory=list)
    before: "Raised | None" = None
    meant: bool = False
    starts: int = 0

    @property
    def text(self) -> str:
        """Return the name and the first line of the message."""
        first = self.message.split("\n", 1)[0].strip()
        name = self.name.rsplit(".", 1)[-1]
        return f"{name}: {first}" if first else name

    def chain(self) -> list["Raised"]:
        """Return the exceptions from the first of the chain to this one."""
        chain: list[Raised] = []
        one: Raised | None = self
        while one is not None and len(chain) < 20:
            chain.append(one)
            one = one.before
        return chain[::-1]


@dataclass
class _Open:
    """The traceback that a process is writing."""

    head: Line
    frames: list[Frame] = field(default_factory=list)
    before: Raised | None = None
    meant: bool = False
    done: Raised | None = None
    blank: int = 0
    innermost_first: bool = False


@dataclass
class Story:
    """All exceptions, and the traceback with which the log breaks off, if it does."""

    raised: list[Raised] = field(default_factory=list)
    unfinished: Line | None = None


def read_story(lines: Iterable[Line]) -> Story:
    """Find the exceptions in lines; lines of several processes may be mixed."""
    story, opened = Story(), dict[str, _Open]()
    linked: dict[str, tuple[Raised, bool]] = {}
    last: Line | None = None
    latest: tuple[Raised, int] | None = None
    for line in lines:
        key = line.rank
        text = line.text.lstrip(" |+")
        if not text:
            if key in opened:
                opened[key].blank += 1
            continue
        last = line
        current = opened.get(key)
        if latest is not None and current is None and not line.rank and not line.level and not _AT_START.match(text):
            if line.number == latest[1] + 1 and latest[0].message.count("\n") < _MAX_MESSAGE and _HEAD not in text:
                latest[0].message += f"\n{text}"  # lines of a message that carry no head of their own
                latest = latest[0], line.number
                continue
            latest = None
        if text.startswith(_FAULT):
            raised = Raised("Fatal Python error", text.removeprefix(_FAULT).strip(": "), line, [], starts=line.number)
            opened[key] = _Open(line, raised.frames, done=raised, innermost_first=True)
            story.raised.append(raised)
            continue
        if _HEAD in text:
            before, meant = linked.pop(key, (None, False))
            opened[key] = _Open(line, before=before, meant=meant)
            continue
        if text.startswith((_CAUSE, _CONTEXT)):
            done = current.done if current is not None else None
            if done is not None:
                linked[key] = (done, text.startswith(_CAUSE))
            opened.pop(key, None)
            continue
        if frame := _FRAME.match(line.text):
            if current is not None and current.innermost_first:
                current.frames.insert(0, _frame(frame, line))
                continue
            if current is None or current.done is not None:
                current = opened[key] = _Open(line)  # an excerpt that lost its head
                if key in linked:
                    current.before, current.meant = linked.pop(key)
            if len(current.frames) < _MAX_FRAMES:
                current.frames.append(_frame(frame, line))
            continue
        if current is not None and current.done is None:
            if current.frames and (found := _raised_after_frames(line, text)):
                raised = Raised(*found, line, current.frames, current.before, current.meant, current.head.number)
                if raised.before is not None:
                    raised.starts = raised.before.starts
                    story.raised = [one for one in story.raised if one is not raised.before]
                current.done = raised
                story.raised.append(raised)
                latest = raised, line.number
            elif _ends_a_traceback(line, current):
                opened.pop(key)
            else:
                continue
            if key in opened:
                continue
        if current is not None and current.innermost_first:
            continue
        if current is not None and current.done is not None:
            plain = not line.level and not current.blank
            same_level = bool(line.level) and line.level == current.done.line.level
            if (plain or same_level) and current.done.message.count("\n") < _MAX_MESSAGE and not _AT_START.match(text):
                current.done.message += f"\n{text}"
                continue
            opened.pop(key)
        if found := _bare(line, text):
            name, message = found
            before, meant = linked.pop(key, (None, False))
            raised = Raised(name, message, line, [], before, meant, line.number)
            story.raised.append(raised)
            opened[key] = _Open(line, done=raised)
            latest = raised, line.number
    unfinished = [one for one in opened.values() if one.done is None and one.frames]
    if unfinished and last is not None and last.rank in opened and opened[last.rank].done is None:
        story.unfinished = last
    return story


def _raised_after_frames(line: Line, text: str) -> tuple[str, str] | None:
    """Return name and message of the exception that ends a traceback."""
    indent = len(line.text) - len(line.text.lstrip(" |+"))
    found = _RAISED.match(text)
    if found is None:
        return None
    name = found.group("name")
    if not _KNOWN_NAME.search(name) and (indent > 3 or ("." not in name and not re.fullmatch(r"[A-Z]\w+", name))):
        return None
    if line.is_source and not _KNOWN_NAME.search(name):
        return None
    return name, found.group("message") or ""


def _ends_a_traceback(line: Line, current: _Open) -> bool:
    """Whether a line of the same process, with a logger's own head, says something else: the traceback broke off."""
    return bool(line.level) and line.level != current.head.level and not line.text.startswith(" ")


def _bare(line: Line, text: str) -> tuple[str, str] | None:
    """Return an exception that the log shows without a traceback."""
    if line.is_source or line.level in {"DEBUG", "TRACE"}:
        return None
    found = _AT_START.match(text)
    if found is None and line.level not in {"INFO", "WARNING", "WARN"}:
        found = _INSIDE.search(text)
    elif found is not None and line.level in {"INFO", "WARNING", "WARN"}:
        return None
    if found is None:
        return None
    message = found.group("message") or (found.group("call") or "").strip("'\")")
    return found.group("name"), message


def _frame(found: re.Match[str], line: Line) -> Frame:
    return Frame(found.group("path").replace("\\", "/"), found.group("function") or "", line)


def frames_at_end(lines: list[Line], rank: str) -> list[Frame]:
    """Return the frames of the traceback within which a process's lines end, outermost first."""
    frames: list[Frame] = []
    for line in reversed(lines):
        if line.rank != rank:
            continue
        if found := _FRAME.match(line.text):
            frames.append(_frame(found, line))
        if _HEAD in line.text or len(frames) >= _MAX_FRAMES:
            break
    return frames[::-1]
