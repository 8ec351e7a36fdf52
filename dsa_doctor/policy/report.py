"""The report: verdicts as a policy sees them. Every formatter gets one, and decides nothing.

Fields are only ever added, as in the verdict's schema.
"""

from datetime import date
from typing import Literal

from dsa_doctor.facts.observation import Fact
from dsa_doctor.policy.schema import ResolvedState
from dsa_doctor.verdict.schema import FindingLayer, LayerName, Verdict

REPORT_SCHEMA_VERSION = "1.0"

Result = Literal["pass", "warn", "fail", "unknown", "skip", "suppressed"]


class Outcome(Fact):
    """What one check counts for, once the policy is applied."""

    layer: FindingLayer
    finding_id: str | None
    """None: the layer's state itself is what is not accepted, or could not be determined."""
    result: Result
    message: str
    """One sentence; for `suppressed` it says why and until when."""


class Gate(Fact):
    """How the policy bears on one verdict."""

    exit_code_without_policy: int
    outcomes: tuple[Outcome, ...]


class GatedVerdict(Verdict):
    """A verdict whose exit code is the policy's; its layers and findings are as they were found."""

    environment: str | None = None
    """What was judged where it is not the running environment: a wheel, an interpreter, a facts file."""
    gate: Gate


class SuppressionState(Fact):
    """What became of one suppression in this run."""

    id: str
    reason: str
    expires: date
    targets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    state: Literal["applied", "expired", "stale", "not judged"]
    """stale: it matched nothing; not judged: none of its targets and models was part of this run."""


class PolicyReport(Fact):
    """The policy in force and what it did."""

    source: str | None
    strict: bool
    required_layers: tuple[FindingLayer, ...]
    allowed_states: dict[LayerName, tuple[ResolvedState, ...]]
    suppressions: tuple[SuppressionState, ...]
    warnings: tuple[str, ...]
    downgrade_table: str
    """TOML table and file that `downgrade_lines` belong to, in words."""
    downgrade_lines: tuple[str, ...]
    """Lines that would let the run pass; empty where nothing fails."""


class ManifestPin(Fact):
    """The line of a file that decides which vLLM is installed."""

    file: str
    line: int
    """1-based."""
    text: str
    requirement: str
    """The requirement, wheel or image on that line."""


class SingleReport(GatedVerdict):
    """The document of a run with one verdict, where a policy, a manifest or another environment is in play."""

    policy: PolicyReport
    manifest: ManifestPin | None = None


class Report(Fact):
    """Everything of one run."""

    schema_version: str = REPORT_SCHEMA_VERSION
    dsa_doctor_version: str
    verdicts: tuple[GatedVerdict, ...]
    policy: PolicyReport
    manifest: ManifestPin | None = None
    exit_code: int

    @property
    def plain(self) -> bool:
        """Whether it is one verdict of one environment that no policy bears on: it is then shown as such."""
        only = self.verdicts[0]
        return (
            len(self.verdicts) == 1
            and only.environment is None
            and self.policy.source is None
            and not self.policy.strict
            and self.manifest is None
        )
