"""From how a log ends to findings: what stopped it, also where no message is known."""

import re

from dsa_doctor.explain.background import Background
from dsa_doctor.explain.ending import Ending
from dsa_doctor.explain.kind_remedies import HELP
from dsa_doctor.explain.kinds import KINDS, Kind, kind_of
from dsa_doctor.explain.places import Place, place_of
from dsa_doctor.explain.remedies import Remedy
from dsa_doctor.explain.sighting import Frame, Sighting
from dsa_doctor.explain.story import Raised, frames_at_end
from dsa_doctor.explain.text import Line

_MOST_TEXT = 240
_BY_PLACE = {"DSA931", "DSA936", "DSA937", "DSA940"}
"""Kinds whose words are so general that the frame of a layer counts more."""
_CONSEQUENCES = {"DSA932", "DSA933", "DSA938"}
"""Kinds that follow from other failures: another one is looked for first."""
_REFERS = re.compile(r"[Ss]ee (?:the )?(?:root cause|stack trace)|stack trace \(?above|root cause (?:above|below)")
_CACHE_DTYPE = re.compile(
    r"(?i)kv[_ ]?(?:cache[_ ]?)?(?:data[_ ]?)?(?:d?type).{0,120}(?:not supported|unsupported|invalid|must be|expected)"
    r"|(?:unsupported|not support\w*|invalid).{0,80}kv[_ ]?cache(?:[_ ]d?type)?"
)
_DTYPE = re.compile(r"torch\.(\w{2,20})|\b(fp8\w{0,12}|uint8|bfloat16|float16|nvfp4|int8)\b")
_FILE = re.compile(r"(?:/[\w.\-]{1,60}){2,20}\.(?:cpp|cc|cu|cuh|hpp|h|py)\b")
_WORKSPACE = (
    Remedy(
        "VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE=2147483648   # bytes; more where the message asks for more",
        engine="vllm",
    ),
    Remedy("lower --max-num-batched-tokens: the workspace grows with the tokens of a step", engine="vllm"),
)
_SPARSE = re.compile(r"sparse|mla|nsa|dsa|MLA", re.IGNORECASE)


def stopped_by(ending: Ending, lines: list[Line], background: Background) -> list[Sighting]:
    """Return what stopped the log's server, one finding at most; nothing where it did not stop."""
    if ending.root is not None:
        sighting = _of_exception(ending.root, background)
        if ending.answered is not None:
            sighting.details["answered"] = str(ending.answered.number)
        return [sighting]
    if ending.state == "stuck":
        return [Sighting("DSA933", ending.lines, {"what": ending.stuck})]
    if ending.cut == "traceback":
        return [_of_broken_traceback(ending, lines)]
    if ending.state != "failed":
        return []
    candidates = _telling_lines(ending, lines)
    kinds = [(line, kind) for line in candidates if (kind := kind_of(line.text[:2000])) is not None]
    kinds = [(line, kind) for line, kind in kinds if _REFERS.search(line.text) is None]
    exact = [one for one in kinds if one[1] is not KINDS[-1]] or kinds
    first = [one for one in exact if one[1].id not in _CONSEQUENCES] or exact
    if first:
        line, kind = first[0]
        return [_of_kind(kind, line.text, [line])]
    referring = next((line for line in candidates if _REFERS.search(line.text)), None)
    if referring is not None:
        ending.cut = "head"
    if ending.cut == "head" and (referring is not None or ending.reported is not None or ending.died is not None):
        shown = referring or (ending.reported.line if ending.reported is not None else ending.died)
        assert shown is not None
        what = "it names an error that stands above, or in another process's log, and neither is here"
        return [Sighting("DSA934", [shown], {"what": what})]
    wrong = ending.lines or candidates[-1:]
    if not wrong:
        return []
    place, frame = place_of(_files_in(wrong[-1]))
    details = {"what": _clipped(wrong[-1].text), "place": _place_text(place, frame)}
    return [Sighting(_finding_of(place, frame, background), wrong, details)]


def _telling_lines(ending: Ending, lines: list[Line]) -> list[Line]:
    """Return the lines that may say why, oldest first."""
    numbers = {line.number for line in ending.lines}
    numbers |= {line.number for line in (ending.signal, ending.died) if line is not None}
    if ending.reported is not None:
        numbers.add(ending.reported.line.number)
    loud = {"ERROR", "CRITICAL", "FATAL"}
    plain = re.compile(
        r"(?i)^\S{0,60}:? ?(?:fatal|error|panic)\b|error response|nvidia-container-cli|terminate called|fatal python"
        r"|segmentation fault|core dumped|oom|xid|bus error|killed|aborted|what\(\)|exited|exit code|backoff|back-off"
        r"|failed"
    )
    return [
        line
        for line in lines
        if line.number in numbers or line.level in loud or (not line.level and plain.search(line.text[:400]))
    ]


def _of_exception(root: Raised, background: Background) -> Sighting:
    place, frame = place_of(root.frames or _files_in(root.line))
    parts = root.chain() if root.meant else root.chain()[::-1]
    shown = [root.line, *([frame.line] if frame is not None else [])]
    text = _clipped(root.text)
    if _CACHE_DTYPE.search(f"{root.text}") and (place is None or place.layer == "attention"):
        names = background.chosen_backend or _backend_file(frame) or "the attention backend"
        found = _DTYPE.search(root.message)
        dtype = next((one for one in found.groups() if one), "") if found else ""
        asked = background.arguments.get("kv_cache_dtype")
        details = {"dtype": f"{asked} ({dtype})" if asked and dtype else asked or dtype, "names": names}
        return Sighting("DSA205", shown, details)
    kind = next((kind for part in parts if (kind := kind_of(f"{part.name}: {part.message}"[:2500])) is not None), None)
    if kind is not None and not (kind.id in _BY_PLACE and place is not None and place.layer != "runtime"):
        telling = next((one for one in root.message.split("\n")[1:] if kind.pattern.search(one)), text)
        sighting = _of_kind(kind, text if kind.pattern.search(root.text) else telling, shown)
        sighting.details["place"] = _place_text(place, frame) if kind.id not in {"DSA935", "DSA936"} else ""
        return sighting
    sighting = Sighting(
        _finding_of(place, frame, background), shown, {"what": text, "place": _place_text(place, frame)}
    )
    if "workspace" in root.message and re.search(r"overflow|[Ii]ncrease the workspace", root.message):
        sighting.remedy = _WORKSPACE
    return sighting


def _finding_of(place: Place | None, frame: Frame | None, background: Background) -> str:
    if place is None or place.layer == "runtime":
        return "DSA931"
    if place.layer == "csrc":
        return "DSA109"
    sparse = frame is not None and _SPARSE.search(f"{frame.path} {frame.function}") is not None
    if place.layer == "indexer":
        return "DSA308"
    if background.uses_dsa is False or (background.uses_dsa is None and not sparse):
        return "DSA928"
    return "DSA213"


def _of_kind(kind: Kind, text: str, lines: list[Line]) -> Sighting:
    sighting = Sighting(kind.id, lines, {"what": f"{kind.what} ({_clipped(text)})"})
    sighting.remedy = HELP.get(kind.what, ())
    return sighting


def _of_broken_traceback(ending: Ending, lines: list[Line]) -> Sighting:
    """Name the frame that a traceback reached when the log ended."""
    frames = frames_at_end(lines, ending.lines[0].rank)
    place, frame = place_of(frames)
    where = f"; its last frames are in {place.name}" if place is not None else ""
    what = f"it ends within a traceback, before the exception is named{where}"
    return Sighting("DSA934", [*ending.lines, *([frame.line] if frame else [])], {"what": what})


def _place_text(place: Place | None, frame: Frame | None) -> str:
    if frame is None:
        return ""
    file = "/".join(frame.path.split("/")[-2:])
    where = f"{frame.function} of {file}" if frame.function else file
    return f" It was raised in {place.name}, {where}." if place is not None else f" It was raised in {where}."


def _backend_file(frame: Frame | None) -> str:
    return frame.path.rsplit("/", 1)[-1].removesuffix(".py") if frame is not None else ""


def _files_in(line: Line) -> list[Frame]:
    """Return source files that a message itself names, as compiled code does, as frames without functions."""
    return [Frame(found, "", line) for found in _FILE.findall(line.text[:2000])]


def _clipped(text: str) -> str:
    text = " ".join(text.split()).rstrip(".:")
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1].rstrip() + "…"
