"""How a log ends: healthy, in order, failed, stuck or broken off; and which exception stopped it."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from dsa_doctor.explain.marks import (
    ANSWERED,
    DIED,
    IDLE_WAIT,
    MARKS,
    READY,
    REQUEST_FAILED,
    SERVED,
    SIGNAL,
    STAGES,
    STARTED,
    STOPPED,
    WRAPPERS,
)  # fmt: skip
from dsa_doctor.explain.reader import REQUEST_ENDS, REQUESTS
from dsa_doctor.explain.story import Raised, Story, read_story
from dsa_doctor.explain.text import Line
from dsa_doctor.reading.numbers import DECIMAL, WHOLE

State = Literal["healthy", "stopped", "failed", "request failed", "stuck", "unfinished", "unclear"]

_QUIET = {"INFO", "DEBUG", "TRACE", "WARNING", "WARN"}
_ANNOUNCES = re.compile(r"failed to start|hit an exception|fatal error")
_INNER = re.compile(r"(?:Worker failed with error|err(?:or)?=)\s?['\"]?(?P<text>.{1,2000})", re.DOTALL)
_INNER_END = re.compile(r"['\"]?,? please check the stack trace|['\"]?\), type\(err\)")
_IGNORED = re.compile(r"Exception ignored in|exception was never retrieved")
_ERROR_LINE = re.compile(
    r"(?:^|\s)(?:ERROR|CRITICAL|FATAL|PANIC|[Ee]rror|[Ff]atal(?: error)?|panic)\b\s?[:\]|=]?\s|^E\d{4} |\berror:\s"
    r"|^(?:[\w./\-]{1,40}: )?(?:[Ff]ailed|[Uu]nable|[Cc]annot|[Cc]ould not)\b|\(core dumped\)"
    r"|\blevel=(?:error|ERROR|fatal|FATAL)\b|\]\s?\[E\]\s"
    r"|^[Aa]ssertion (?:error|failed)"
)
_REQUEST_NAMES = tuple(name.decode() for name in REQUESTS)
_REQUEST_ENDS = tuple(name.decode() for name in REQUEST_ENDS)
_VARIES = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+(?:[.,:]\d+)*")
_WAITS = re.compile(
    r"\b(?:wait|waiting|retry|retrying|retries|still|attempt|not ready|timed? ?out|unreachable|refused|stuck|blocked"
    r"|restarting|reconnect\w*)\b|No available shared memory",
    re.IGNORECASE,
)
_STATISTICS = re.compile(
    rf"prompt throughput: (?P<prompt>{DECIMAL}) tokens/s.*?generation throughput: (?P<generation>{DECIMAL}) tokens/s"
    rf".*?Running: (?P<running>{WHOLE}) reqs(?:, Waiting: (?P<waiting>{WHOLE}) reqs)?"
)
_END = 15
"""Lines at the end of a log in which an error is taken as what ended it."""
_REPEATED = 3
"""Starts without an error between them that make a loop."""
_ANSWER_AFTER = 40
"""Lines after an exception within which the answer to its request stands."""
_LOOP = 8
"""Equal lines at the end that make a loop."""


@dataclass
class Ending:
    """How a log ends.

    Attributes:
        state: what is seen of the end.
        lines: what shows it.
        root: the exception that stopped it, which no other only reports; None where none is shown.
        reported: the exception that only reports the death, where the log shows no other.
        survived: exceptions after which it went on.
        stage: what the server was at when the log ends or the root was raised; "" once it was ready.
        ready: number of the line where the server came up last; 0 for never.
        starts: how often the log shows a start.
        cut: what is missing: "head" of the log, "traceback" within which it ends, or "".
        came_back: number of the line where it ran again after it had died; 0 for never.
        signal: the line that names a signal or a kill.
        died: the line that says first that a process died.
        stuck: why it is taken as stuck.
        answered: the line that answers 5xx to the request that raised the root, where nothing died.
    """

    state: State = "unclear"
    lines: list[Line] = field(default_factory=list)
    root: Raised | None = None
    reported: Raised | None = None
    survived: list[Raised] = field(default_factory=list)
    stage: str = ""
    ready: int = 0
    starts: int = 0
    cut: str = ""
    came_back: int = 0
    signal: Line | None = None
    died: Line | None = None
    stuck: str = ""
    answered: Line | None = None


def judge(lines: list[Line]) -> Ending:
    """Judge the end of a log by its excerpt, oldest line first."""
    lines = list(_outside_requests(lines))
    story, ending = read_story(lines), Ending()
    marks: dict[str, list[Line]] = {name: [] for name in (READY, SERVED, STOPPED, DIED, SIGNAL, STARTED, IDLE_WAIT)}
    stages: list[tuple[str, Line]] = []
    for line in lines:
        if line.level in {"DEBUG", "TRACE"}:
            continue
        text = line.text[:2000]
        for mark in MARKS:
            if mark.needle in text and mark.pattern.search(text) and line not in marks[mark.name][-1:]:
                marks[mark.name].append(line)
        if not line.is_source:
            stages += [(name, line) for name, pattern in STAGES if pattern.search(text)][-1:]
    died = [line for line in marks[DIED] if not line.is_source]
    good = sorted(line.number for line in (*marks[READY], *marks[SERVED]))
    ending.starts = len(
        [line for line in marks[STARTED] if "API server version" in line.text or "server_args" in line.text]
    )
    ending.ready = max((line.number for line in marks[READY]), default=0)
    ending.died = died[0] if died else None
    ending.signal = marks[SIGNAL][0] if marks[SIGNAL] else None
    fatal = _fatal(story, lines, died, good, stages, ending)
    _choose(fatal, died, ending)
    if not died:
        ending.answered = _answer(fatal, lines, ending.root)
    last_bad = max([line.number for line in died] + [one.line.number for one in fatal] + [0])
    last_good = max([*good, 0])
    if last_bad and last_good > last_bad:
        ending.came_back = next(number for number in good if number > last_bad)
    told = ending.root.starts if ending.root else last_bad or (lines[-1].number if lines else 0)
    before = [name for name, line in stages if line.number <= told]
    ended = max((one.number for one in marks[READY] if one.number <= told), default=0)
    ending.stage = "" if ended and not ending.came_back else (before[-1] if before else "")
    if (
        ended
        and stages
        and any(line.number > ended and line.number <= told and "API server" in line.text for _, line in stages)
    ):
        ending.stage = before[-1]
    if story.unfinished is not None and not (ending.root or died):
        ending.cut, ending.lines, ending.state = "traceback", [story.unfinished], "failed"
    elif (died or fatal) and not ending.root:
        ending.cut = "head"
    _name_the_state(ending, lines, marks, fatal, last_good, last_bad)
    return ending


def _name_the_state(
    ending: Ending, lines: list[Line], marks: dict[str, list[Line]], fatal: list[Raised], last_good: int, last_bad: int
) -> None:
    stopped = [line for line in marks[STOPPED] if line.number > last_bad]
    if fatal or marks[DIED] or ending.state == "failed":
        ending.state = "failed" if ending.answered is None else "request failed"
        return
    if ending.starts >= _REPEATED and not last_good:
        ending.state, ending.lines = "stuck", [marks[STARTED][0], marks[STARTED][-1]]
        ending.stuck = f"the start repeats itself, {ending.starts} times here, and never comes to its end"
        return
    if stuck := _stuck(lines, marks):
        ending.state, ending.stuck, ending.lines = "stuck", stuck[0], stuck[1]
        return
    if marks[SIGNAL] and not (stopped and last_good) and marks[SIGNAL][-1].number > last_good:
        ending.state, ending.lines = "failed", [marks[SIGNAL][-1]]
        return
    if stopped:
        ending.state, ending.lines = "stopped", stopped[-1:]
    elif last_good:
        ending.state = "healthy"
        ending.lines = [line for line in lines if line.number == last_good][:1]
    else:
        wrong = [line for line in lines if _is_error_line(line)]
        progress = max((line.number for line in marks[STARTED]), default=0)
        last = lines[-1].number if lines else 0
        after = [line for line in lines if wrong and line.number > wrong[-1].number and line.level == "INFO"]
        if wrong and wrong[-1].number >= progress and (last - wrong[-1].number < _END or not after):
            ending.state, ending.lines = "failed", wrong[:1] if len(wrong) < 4 else [wrong[0], wrong[-1]]
        else:
            ending.state = "unfinished" if ending.stage else "unclear"


def _is_error_line(line: Line) -> bool:
    """Whether a line calls itself an error; a line of source or of a request does not."""
    if line.level in _QUIET or line.is_source:
        return False
    if line.level in {"ERROR", "CRITICAL", "FATAL"}:
        return True
    return _ERROR_LINE.search(line.text[:200]) is not None and re.search(r"\bno error|0 errors?\b", line.text) is None


def _outside_requests(lines: Iterable[Line]) -> Iterable[Line]:
    """Leave out the records of requests, whose prompts may quote any error."""
    kept = list(lines)
    position = 0
    while position < len(kept):
        line = kept[position]
        position += 1
        opens = next((name for name in _REQUEST_NAMES if name in line.text), None)
        if opens is None:
            yield line
            continue
        rest = line.text[line.text.index(opens) :]
        if "prompt:" not in rest or any(after in rest for after in _REQUEST_ENDS):
            continue
        size = 0
        for ahead in range(position, min(position + 4000, len(kept))):
            size += len(kept[ahead].text)
            if size > 64 << 10:
                break
            if any(after in kept[ahead].text for after in _REQUEST_ENDS):
                position = ahead + 1
                break


def _fatal(
    story: Story, lines: list[Line], died: list[Line], good: list[int], stages: list[tuple[str, Line]], ending: Ending
) -> list[Raised]:
    """Return the exceptions that nothing shows to be survived; the others are noted in `ending`."""
    ignored = {line.number for line in lines if _IGNORED.search(line.text)}
    refused = [line.number for line in lines if ANSWERED.search(line.text)]
    deaths = [line.number for line in died]
    starts = [line.number for name, line in stages if name == STAGES[0][0]]
    fatal = []
    for one in story.raised:
        after = one.line.number
        quiet = one.line.level in _QUIET
        unheard = any(number in ignored for number in range(one.starts - 2, one.starts + 1))
        healthy = next((number for number in good if number > after), None)
        if healthy is None and not one.line.rank:
            healthy = next((line.number for _, line in stages if line.number > after and line.level == "INFO"), None)
        elif healthy is None:
            same = (line.number for _, line in stages if line.number > after and line.rank == one.line.rank)
            healthy = next(same, None)
        dead = healthy is not None and (
            any(one.starts - 5 <= number <= healthy for number in deaths)
            or any(after < number <= healthy for number in starts)
        )
        served_before = any(number < one.starts for number in good) and not any(
            number > one.starts - 5 for number in deaths
        )
        only_refused = any(after < number <= after + 40 for number in refused) and not any(
            number >= one.starts - 5 for number in deaths
        )
        if (
            quiet
            or unheard
            or only_refused
            or (served_before and _only_reports(one))
            or (healthy is not None and not dead)
        ):
            ending.survived.append(one)
        else:
            fatal.append(one)
    return fatal


def _choose(fatal: list[Raised], died: list[Line], ending: Ending) -> None:
    """Choose the exception that stopped the process that died first."""
    real = [one for one in fatal if not _only_reports(one)]
    announced = [
        one
        for one in real
        if any(
            0 <= one.starts - line.number <= 3 and line.rank == one.line.rank and _ANNOUNCES.search(line.text)
            for line in died
        )
    ]
    if announced:
        ending.root = announced[0]
    elif real:
        first_death = died[0].number if died else None
        last_of: dict[str, Raised] = {}
        for one in real:
            known = last_of.get(one.line.rank)
            if known is None or first_death is None or one.starts <= first_death + 3 or known.starts > first_death + 3:
                last_of[one.line.rank] = one
        ending.root = min(last_of.values(), key=lambda one: one.line.number)
    if ending.root is None and fatal:
        ending.reported = fatal[0]
        for one in fatal:
            if inner := _inner(one):
                ending.root = inner
                return


def _answer(fatal: list[Raised], lines: list[Line], root: Raised | None) -> Line | None:
    """Return where the process that raised the root answers its request with 5xx; None where another failed too."""
    if root is None or any(one.line.rank != root.line.rank for one in fatal):
        return None
    first = max(one.line.number for one in fatal)
    near = (line for line in lines if first < line.number <= first + _ANSWER_AFTER and line.rank == root.line.rank)
    return next((line for line in near if REQUEST_FAILED.search(line.text)), None)


def _only_reports(one: Raised) -> bool:
    return all(WRAPPERS.search(part.text[:600]) for part in one.chain())


def _inner(one: Raised) -> Raised | None:
    """Return the exception that a report quotes, where it quotes a telling one."""
    found = _INNER.search(one.message)
    if found is None:
        return None
    text = _INNER_END.split(found.group("text"), maxsplit=1)[0].strip().strip("'\"")
    name, _, message = text.partition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.]{2,80}", name.strip()):
        name, message = "error", text
    if WRAPPERS.search(text) or len(message.strip(" '\"")) < 3:
        return None
    return Raised(name.strip().rsplit(".", 1)[-1], message.strip(), one.line, [], None, False, one.line.number)


def _stuck(lines: list[Line], marks: dict[str, list[Line]]) -> tuple[str, list[Line]] | None:
    """Return why the log's end shows no progress, and the lines that show it."""
    tail = lines[-400:]
    statistics = [(line, found) for line in tail if (found := _STATISTICS.search(line.text))]
    idle = 0
    for _, found in reversed(statistics):
        working = int(found.group("running")) > 0
        if not (working and float(found.group("prompt")) == 0 and float(found.group("generation")) == 0):
            break
        idle += 1
    if idle >= 3:
        return f"requests run and {idle} reports in a row show no token", [statistics[-idle][0], statistics[-1][0]]
    waits = marks[IDLE_WAIT]
    if waits and not any(line.number > waits[-1].number for line in (*marks[SERVED], *marks[READY])):
        later = [line for line in lines if line.number > waits[-1].number and line.level == "INFO"]
        if len(waits) >= 2 or not later:
            return f"a process waited {len(waits)} times a minute for another", [waits[0], waits[-1]][: len(waits)]
    templates = Counter(_template(line) for line in tail[-120:])
    if not templates:
        return None
    template, count = templates.most_common(1)[0]
    same = [line for line in tail if _template(line) == template]
    at_end = sum(1 for line in lines[-20:] if _template(line) == template)
    if count >= _LOOP and at_end >= 5 and _WAITS.search(template):
        return f"the same line was written {count} times at the end, with nothing but numbers changed", [
            same[0],
            same[-1],
        ]
    return None


def _template(line: Line) -> str:
    return _VARIES.sub("0", line.text.strip()[:300])
