"""What dsa-doctor's own plugin says when it refuses to start a server."""

import re

from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.sighting import Sighting

_REASON = re.compile(r"(?P<asked>[^:]{1,120}): (?P<why>.{1,300}?)(?:; accepted: (?P<accepted>.{1,200}))?")
_OPTION = re.compile(r"[a-z]+(?:-[a-z]+)* \S+$")
_LAST = "Change what is named above"
_CANNOT = re.compile(r"dsa-doctor's plugin cannot serve: (?P<why>.{1,300}?)\.?\s*$")
_MOST = 8


def refused_configuration(passage: Passage) -> list[Sighting]:
    """The list of options that are in the way, each with what is accepted."""
    line = passage.line
    if line.is_source or line.is_remark:
        return []
    reasons, remedy = [], []
    for text in (re.sub(r"^\s*(?:- )?", "", one.text).rstrip() for one in passage.after(_MOST + 1)[1:]):
        if text.startswith(_LAST):
            break
        match = _REASON.fullmatch(text)
        if match is None or not match["accepted"]:
            reasons.append(text[:300])
            continue
        asked, first = match["asked"], match["accepted"].partition(",")[0]
        if _OPTION.match(asked):  # the reader of logs takes leading hyphens for a quotation
            asked = f"--{asked}"
            remedy.append(f"{asked.split(' ')[0]} {first}")
        else:
            remedy.append(f"{asked}: accepted: {first}")
        reasons.append(f"{asked}: {match['why']}")
    what = "; ".join(reasons) or "the reasons are not in the log"
    return [Sighting("DSA914", [line], {"what": what}, remedy=tuple(remedy))]


def cannot_serve(passage: Passage) -> list[Sighting]:
    """It was asked for by name, or forced, and the gate says no."""
    line = passage.line
    match = _CANNOT.search(line.text)
    if match is None or line.is_source or line.is_remark:
        return []
    return [Sighting("DSA914", [line], {"what": match["why"]})]


def not_patched(passage: Passage) -> list[Sighting]:
    """The backend was taken in a process whose model class is another's."""
    line = passage.line
    if line.is_source or line.is_remark:
        return []
    what = "its backend was selected in a process whose model class is not the plugin's"
    remedy = ("leave out model_class_overrides and other model plugins, or limit VLLM_PLUGINS to dsa_doctor",)
    return [Sighting("DSA914", [line], {"what": what}, remedy=remedy)]
