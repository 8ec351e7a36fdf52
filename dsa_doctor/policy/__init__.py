"""Policy: what a run is held to, and what verdicts count for under it. Pure but for `load`, which reads the file."""

from dsa_doctor.policy.apply import apply_policy
from dsa_doctor.policy.load import PolicyError, find_policy, load_policy
from dsa_doctor.policy.report import Gate, GatedVerdict, ManifestPin, Outcome, PolicyReport, Report
from dsa_doctor.policy.schema import Policy, Suppression

__all__ = [
    "Gate",
    "GatedVerdict",
    "ManifestPin",
    "Outcome",
    "Policy",
    "PolicyError",
    "PolicyReport",
    "Report",
    "Suppression",
    "apply_policy",
    "find_policy",
    "load_policy",
]
