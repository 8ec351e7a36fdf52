"""Workflow commands of GitHub Actions: one annotation per layer, however many combinations were judged.

GitHub shows ten annotations of each kind per step; four layers and the policy stay below that. Source of the syntax
and its escapes: GitHub's documentation, "Workflow commands", and the data escapes of actions/toolkit.
"""

from dsa_doctor.catalog.findings import trouble_of
from dsa_doctor.policy.report import GatedVerdict, Outcome, Report
from dsa_doctor.render.wording import GRAVITY, LAYERS, case_title, clean, finding_of, remedies_of
from dsa_doctor.verdict.schema import FindingLayer

MAX_MESSAGE_BYTES = 4096
"""Of one annotation, before escaping; the markdown report holds the rest."""

_KINDS = {"fail": "error", "unknown": "error", "warn": "warning"}


def render_github(report: Report) -> str:
    """Return one workflow command per layer, the gravest first, and one for the policy's warnings."""
    annotations = [_layer(report, layer) for layer in LAYERS]
    order = {"error": 0, "warning": 1, "notice": 2}
    lines = [
        _command(report, kind, title, message)
        for kind, title, message in sorted(filter(None, annotations), key=lambda one: order[one[0]])
    ]
    if report.policy.warnings:
        kind = "error" if report.policy.strict else "warning"
        lines.append(_command(report, kind, "dsa-doctor: policy", "\n".join(map(clean, report.policy.warnings))))
    return "\n".join(lines) + "\n"


def _layer(report: Report, layer: FindingLayer) -> tuple[str, str, str] | None:
    """Return the kind, title and message of one layer's annotation; None where nothing concerns it."""
    worst = [(case, one) for case in report.verdicts if (one := _worst(case, layer)) is not None]
    if not worst:
        return None
    kinds = [_KINDS.get(outcome.result, "notice") for _, outcome in worst]
    kind = next((one for one in ("error", "warning") if one in kinds), "notice")
    shown = [pair for pair, its_kind in zip(worst, kinds, strict=True) if its_kind == kind]
    title = _title(report, layer, kind, shown)
    return kind, title, "\n".join(_lines(shown, several=len(report.verdicts) > 1))


def _title(report: Report, layer: FindingLayer, kind: str, shown: list[tuple[GatedVerdict, Outcome]]) -> str:
    """Return what a person reads in the list of annotations: of what, which layer, and what is the matter with it."""
    case, outcome = shown[0]
    several = len(report.verdicts) > 1
    subject = f"{len(shown)} of {len(report.verdicts)} combinations" if several else case_title(case)
    if kind == "notice":
        suppressed = any(one.result == "suppressed" for _, one in shown)
        return f"{subject}: layer {layer} {'is suppressed by the policy' if suppressed else 'passes'}"
    matter = trouble_of(outcome.finding_id) if outcome.finding_id is not None else _state(case, layer)
    others = len({one.finding_id for _, one in shown}) - 1
    unknown = all(one.result == "unknown" for _, one in shown)
    word = "warns" if kind == "warning" else "could not be told" if unknown else "fails"
    return f"{subject}: layer {layer} {word}: {matter}{f', and {others} more' if others > 0 else ''}"


def _state(case: GatedVerdict, layer: FindingLayer) -> str:
    """Return what is the matter where a layer's state itself is not accepted, or could not be determined."""
    state = next((one.state for one in case.layers if one.layer == layer), "unknown")
    if state == "unknown":
        return "the layer could not be judged"
    return f"{state} is not a state that the policy allows"


def _worst(case: GatedVerdict, layer: FindingLayer) -> Outcome | None:
    own = [one for one in case.gate.outcomes if one.layer == layer]
    return min(own, key=lambda one: GRAVITY[one.result]) if own else None


def _lines(shown: list[tuple[GatedVerdict, Outcome]], *, several: bool) -> list[str]:
    lines = []
    for case, outcome in shown:
        subject = f"{case_title(case)}: " if several else ""
        lines.append(f"{subject}{outcome.finding_id or outcome.layer}: {clean(outcome.message)}")
    case, outcome = shown[0]
    if outcome.result in _KINDS:
        finding = finding_of(case, outcome)
        remedies = finding.remedy if finding is not None else remedies_of(case)
        lines += [f"remedy: {clean(one)}" for one in remedies[:3]]
    return lines


def _command(report: Report, kind: str, title: str, message: str) -> str:
    properties = {"title": title}
    if report.manifest is not None:
        properties = {"file": report.manifest.file, "line": str(report.manifest.line), **properties}
    listed = ",".join(f"{name}={_property(clean(value))}" for name, value in properties.items())
    return f"::{kind} {listed}::{_data(_clipped(message))}"


def _clipped(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return message
    ending = "\n... (cut; see the report)"
    return encoded[: MAX_MESSAGE_BYTES - len(ending)].decode(errors="ignore") + ending


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
