"""The finding that says why the plugin does not serve; two layers give it."""

from dsa_doctor.resolver.judgement import Judgement, finding
from dsa_doctor.verdict.schema import Finding


def plugin_finding(case: Judgement) -> Finding:
    """Return the finding that says why the plugin does not serve."""
    return finding(
        "DSA914",
        "fail" if case.gate.outcome == "refuses" else "skip",
        f"dsa-doctor's plugin does not serve {case.model.name} here: {case.gate.reason}.",
        evidence=case.gate.evidence,
        remedy=case.gate.remedy,
    )
