"""Workflow commands of GitHub Actions: one annotation per layer, however many combinations were judged.

GitHub shows ten annotations of each kind per step; four layers and the policy stay below that. Source of the syntax
and its escapes: GitHub's documentation, "Workflow commands", and the data escapes of actions/toolkit.
"""

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
    count = f" ({len(shown)} of {len(report.verdicts)} combinations)" if len(report.verdicts) > 1 else ""
    word = {"error": "fails", "warning": "warns", "notice": "passes"}[kind]
    if kind == "notice" and any(outcome.result == "suppressed" for _, outcome in shown):
        word = "is suppressed by the policy"
    return kind, f"dsa-doctor: layer {layer} {word}{count}", "\n".join(_lines(shown, several=len(report.verdicts) > 1))


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
