"""The sentences of an explanation: of one finding, and of the whole."""

import re

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.explain.background import Background
from dsa_doctor.explain.causes import CAUSES
from dsa_doctor.explain.schema import LogContext, LogFinding


def summary_of(finding_id: str, details: dict[str, str], background: Background) -> str:
    """Fill the cause's sentence; what was not seen leaves no trace in it."""
    values = {**details, "via_api": details.get("api", "").split(", ")[0]}
    for name, template in (
        ("via", " through {via_api}"),
        ("kernel_text", " in the kernel {kernel}"),
        ("where_text", " ({where})"),
        ("limit_text", " and the limit is {limit}"),
        ("size_text", " while {size} were asked for"),
        ("place_text", "{place}"),
    ):
        source = template[template.index("{") + 1 : template.index("}")]
        values[name] = template.replace(f"{{{source}}}", values[source]) if values.get(source) else ""
    hung = background.chosen_backend
    values["backend_text"] = f"; {hung} is known to hang" if hung == "FLASHINFER_MLA_SPARSE_SM120" else ""
    request = "A request failed for a reason" if details.get("answered") else "Stopped by something"
    values["stopped_text"] = f"{request} that is not known here"
    values["earlier_text"] = "; the log shows no earlier error"
    text = re.sub(r"\{(\w+)\}", lambda match: values.get(match.group(1), ""), CAUSES[finding_id].summary)
    text = re.sub(r"\s{2,}", " ", text).replace(" :", ":").replace("()", "").replace(" .", ".").strip()
    return text if text.startswith(("vLLM", "torch")) else text[0].upper() + text[1:]


def message_of(findings: tuple[LogFinding, ...], context: LogContext) -> str:
    """Say in one or two sentences what the whole log shows."""
    if not context.bytes:
        return "The log is empty: there is nothing to explain."
    size = f"{context.lines} {'line' if context.lines == 1 else 'lines'}"
    layers = [layer for layer in ("csrc", "attention", "indexer") if any(one.layer == layer for one in findings)]
    others = [one for one in findings if one.layer == "runtime"]
    if layers:
        message = f"{size}; failing: {', '.join(layers)}."
        return f"{message} Also found: {', '.join(one.id for one in others)}." if others else message
    if others:
        named = "; ".join(f"{one.id}, {FINDINGS_BY_ID[one.id].title}" for one in others)
        message = f"{size}; failing: runtime ({named}); no sign of a failure of csrc, attention or the indexer."
        told = {one.dsa for one in others if one.id != "DSA943"}
        return f"{message} This is no DSA problem." if told == {False} else message
    if context.end == "healthy":
        return f"{size}; no sign of a failure: the server was ready or answered, and the log ends so."
    if context.end == "stopped":
        return f"{size}; no sign of a failure: the server was stopped in order."
    if context.end == "unfinished":
        return f"{size}; no failure, but the log ends during {context.stage}, before the server was ready."
    return f"{size}; no failure, but the log shows neither that the server was ready nor how it ended."
