"""SARIF 2.1.0: what does not pass, at the line that pins vLLM where a manifest was named.

Source: OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0 Plus Errata 01". Checks that pass are
left out: code-scanning servers show every result as an alert, whatever its kind.
"""

import hashlib
import json
from typing import Any
from urllib.parse import quote

from dsa_doctor.policy.report import GatedVerdict, Outcome, Report
from dsa_doctor.render.wording import (
    case_title,
    clean,
    documentation_of,
    finding_of,
    finding_title,
    remedies_of,
)

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_LEVELS = {"fail": "error", "unknown": "error", "warn": "warning", "suppressed": "error"}


def render_sarif(report: Report) -> str:
    """Return the report as a SARIF log with one run, ended by a newline."""
    listed = [(case, one) for case in report.verdicts for one in case.gate.outcomes if one.result in _LEVELS]
    rules = list(dict.fromkeys(_rule_id(outcome) for _, outcome in listed))
    run = {
        "tool": {
            "driver": {
                "name": "dsa-doctor",
                "version": report.dsa_doctor_version,
                "informationUri": "https://github.com/dsa-doctor/dsa-doctor",
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "exitCode": report.exit_code}],
        "results": [_result(report, case, outcome, rules) for case, outcome in listed],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule_id(outcome: Outcome) -> str:
    return outcome.finding_id or f"layer-{outcome.layer}"


def _rule(rule: str) -> dict[str, Any]:
    title = finding_title(rule)
    if title == rule:
        return {"id": rule, "shortDescription": {"text": f"State of {rule.replace('-', ' ')}"}}
    return {
        "id": rule,
        "shortDescription": {"text": title},
        "fullDescription": {"text": f"{title}."},
        "helpUri": documentation_of(rule),
        "help": {"text": f"{title}. See {documentation_of(rule)}"},
    }


def _result(report: Report, case: GatedVerdict, outcome: Outcome, rules: list[str]) -> dict[str, Any]:
    rule = _rule_id(outcome)
    finding = finding_of(case, outcome)
    said = "Could not be determined: " if outcome.result == "unknown" else ""
    remedies = finding.remedy if finding is not None else remedies_of(case)
    lines = [f"{case_title(case)}: {said}{outcome.message}", *(f"Remedy: {one}" for one in remedies)]
    result: dict[str, Any] = {
        "ruleId": rule,
        "ruleIndex": rules.index(rule),
        "kind": "fail",
        "level": "warning" if finding is not None and finding.status == "warn" else _LEVELS[outcome.result],
        "message": {"text": "\n".join(map(clean, lines))},
        "partialFingerprints": {"dsaDoctor/v1": _fingerprint(case, rule)},
        "suppressions": _suppressions(outcome),
        "properties": {"layer": outcome.layer, "result": outcome.result},
    }
    if report.manifest is not None:
        result["locations"] = [
            {
                "physicalLocation": {
                    "artifactLocation": {
                        "uri": quote(report.manifest.file.encode("utf-8", "replace")),
                        "uriBaseId": "%SRCROOT%",
                    },
                    "region": {"startLine": report.manifest.line, "snippet": {"text": clean(report.manifest.text)}},
                }
            }
        ]
    return result


def _suppressions(outcome: Outcome) -> list[dict[str, str]]:
    if outcome.result != "suppressed":
        return []
    return [{"kind": "external", "status": "accepted", "justification": clean(outcome.message)}]


def _fingerprint(case: GatedVerdict, rule: str) -> str:
    """Return what tells the same problem of the same combination from run to run."""
    target = case.target.name if case.target is not None else ""
    model = case.model.name if case.model is not None else ""
    return hashlib.sha256(
        "\0".join((rule, target, model, case.environment or "")).encode("utf-8", "replace")
    ).hexdigest()
