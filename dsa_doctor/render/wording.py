"""Words that several formats share, and the cleaning of what came from outside."""

import unicodedata
from collections.abc import Iterator
from typing import get_args

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.policy.report import GatedVerdict, Outcome, Report, Result
from dsa_doctor.policy.schema import RESOLVED_STATES
from dsa_doctor.render.human import answer, conclusion, headline
from dsa_doctor.verdict.schema import Finding, FindingLayer, Verdict

LAYERS: tuple[FindingLayer, ...] = get_args(FindingLayer)
DOCUMENTATION = "https://github.com/dsa-doctor/dsa-doctor/blob/main/docs"
GRAVITY: dict[Result, int] = {"fail": 0, "unknown": 1, "warn": 2, "suppressed": 3, "skip": 4, "pass": 5}

_REPLACED_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
_BIDIRECTIONAL = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


def clean(text: str) -> str:
    """Return `text` on one line and without what can deceive or break a reader.

    Line breaks and tabs become spaces; control characters (escape sequences among them), lone surrogates,
    non-characters and changes of writing direction become U+FFFD.
    """
    return "".join(map(_clean_character, text))


def _clean_character(character: str) -> str:
    if character in "\r\n\t":
        return " "
    code = ord(character)
    if (
        unicodedata.category(character) in _REPLACED_CATEGORIES
        or unicodedata.bidirectional(character) in _BIDIRECTIONAL
        or code & 0xFFFE == 0xFFFE
        or 0xFDD0 <= code <= 0xFDEF
    ):
        return "\ufffd"
    return character


def finding_title(finding_id: str) -> str:
    """Return what a finding id is about; the id itself where it is not in the catalog."""
    known = FINDINGS_BY_ID.get(finding_id)
    return known.title if known is not None else finding_id


def documentation_of(finding_id: str) -> str:
    """Return the address of a finding's page."""
    return f"{DOCUMENTATION}/checks/{finding_id}.md"


def subject(case: GatedVerdict) -> tuple[str, str]:
    """Return the model and the GPU that were judged, as they came; "none" for what is missing."""
    model = case.model.name if case.model is not None else case.asked or "none"
    return model, f"{case.target.name} ({case.target.sm})" if case.target is not None else "none"


def case_title(case: GatedVerdict) -> str:
    """Return what was judged, in one line."""
    where = f", {case.environment}" if case.environment is not None else ""
    return clean(f"{headline(case)}{where}")


def versions(verdict: Verdict) -> str:
    """Return the judged versions in one line."""
    software = verdict.software
    named = {"vLLM": software.vllm, "torch": software.torch, "Triton": software.triton}
    judged = ", ".join(f"{name} {version or 'not installed'}" for name, version in named.items())
    return clean(f"{judged}, dsa-doctor {software.dsa_doctor}")


def case_answer(case: GatedVerdict) -> str:
    """Return the answer for one verdict in a few words, and what the policy makes of it."""
    found = case.model_copy(update={"exit_code": case.gate.exit_code_without_policy})
    text = clean(answer(found))
    if found.exit_code == 0 and case.exit_code != 0:
        return f"{text}, which the policy does not allow"
    if found.exit_code != 0 and case.exit_code == 0:
        return f"{text}; the policy lets it pass"
    return text


def case_conclusion(case: GatedVerdict) -> str:
    """Return the outcome of one verdict in a sentence or two; what the policy lets pass is said plainly."""
    before = case.gate.exit_code_without_policy
    found = conclusion(case.model_copy(update={"exit_code": before})).removesuffix(f" Exit code {before}.")
    suppressed = [one for one in case.gate.outcomes if one.result == "suppressed"]
    if suppressed:
        ids = ", ".join(dict.fromkeys(one.finding_id or f"layer {one.layer}" for one in suppressed))
        found += f" Suppressed by the policy: {ids}."
    states = [one.layer for one in case.gate.outcomes if one.finding_id is None and one.result == "fail"]
    if states:
        found += f" A state that the policy does not allow: {', '.join(states)}."
    if case.exit_code == before:
        return f"{found} Exit code {before}."
    return f"{found} Exit code {case.exit_code}; without the policy it is {before}."


def report_conclusion(report: Report) -> str:
    """Return the outcome of the whole run in one sentence."""
    if len(report.verdicts) == 1 and report.exit_code == report.verdicts[0].exit_code:
        return case_conclusion(report.verdicts[0])
    failing = sum(one.exit_code != 0 for one in report.verdicts)
    count = len(report.verdicts)
    if failing:
        return f"{failing} of {count} combinations fail. Exit code {report.exit_code}."
    if report.exit_code:
        return f"Nothing fails but the policy's own warnings, and the run is strict. Exit code {report.exit_code}."
    lenient = sum(one.gate.exit_code_without_policy != 0 for one in report.verdicts)
    if lenient:
        return f"All {count} combinations pass, {lenient} of them only by the policy. Exit code 0."
    return f"All {count} combinations pass. Exit code 0."


def policy_lines(report: Report) -> Iterator[str]:
    """Yield what the policy asks and what it did, one sentence each; nothing where there is none."""
    policy = report.policy
    if policy.source is None and not policy.strict:
        return
    if set(policy.required_layers) != set(LAYERS):
        yield f"Required layers: {', '.join(policy.required_layers)}."
    by_states: dict[tuple[str, ...], list[str]] = {}
    for layer, states in policy.allowed_states.items():
        by_states.setdefault(states, []).append(layer)
    for shared, layers in by_states.items():
        if set(shared) != set(RESOLVED_STATES):
            yield f"Allowed states of {', '.join(layers)}: {', '.join(shared)}."
    if policy.strict:
        yield "Strict: warnings fail the run."
    for one in policy.suppressions:
        limits = ", ".join((*one.targets, *one.models))
        limited = f" ({limits})" if limits else ""
        yield clean(f"{one.id}{limited} is suppressed until {one.expires.isoformat()} [{one.state}]: {one.reason}")
    for warning in policy.warnings:
        yield clean(f"Warning: {warning}")


def finding_of(case: GatedVerdict, outcome: Outcome) -> Finding | None:
    """Return the finding behind an outcome, the one with its very words where an id occurs more than once."""
    named = [one for one in case.findings if one.id == outcome.finding_id]
    return next((one for one in named if one.summary in outcome.message), named[0] if named else None)


def by_gravity(case: GatedVerdict) -> list[Outcome]:
    """Return the outcomes, the gravest first."""
    return sorted(case.gate.outcomes, key=lambda one: GRAVITY[one.result])


def remedies_of(case: GatedVerdict) -> tuple[str, ...]:
    """Return the remedies of what does not pass, once each, the gravest finding's first."""
    found = [finding for one in by_gravity(case) if one.result != "pass" and (finding := finding_of(case, one))]
    return tuple(dict.fromkeys(remedy for finding in found for remedy in finding.remedy))
