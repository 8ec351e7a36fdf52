"""What `explain` says of a log. Fields are only ever added; removing or renaming one raises the major version."""

from pydantic import Field

from dsa_doctor.facts.observation import Fact
from dsa_doctor.verdict.schema import EXIT_BITS, EXIT_UNDETERMINED, Backend, FindingLayer

EXPLANATION_SCHEMA_VERSION = "1.0"


class EvidenceLine(Fact):
    """One line of the log, redacted and clipped."""

    line: int
    """Counted from 1, by newlines."""
    text: str


class NextFailure(Fact):
    """What would fail next on the same GPU once the finding is fixed."""

    id: str
    layer: FindingLayer
    summary: str


class PossibleCause(Fact):
    """One of several causes that look alike in a log."""

    cause: str
    told_by: str
    """What tells it apart from the others."""


class Outlook(Fact):
    """Whether dsa-doctor's plugin resolves a finding; `resolves` None: what is known does not decide it."""

    resolves: bool | None
    reason: str


class LogFinding(Fact):
    """One failure found in the log; the same failure of several ranks is one finding."""

    id: str
    layer: FindingLayer
    line: int
    """First line of the evidence."""
    count: int
    """Lines that show it, over all ranks."""
    summary: str
    evidence: tuple[EvidenceLine, ...]
    remedy: tuple[str, ...]
    backends: tuple[Backend, ...] = ()
    """For a selector's error: every candidate with the reasons for which it was rejected."""
    next: tuple[NextFailure, ...] = ()
    """Empty where the GPU's capability is neither in the log nor given."""
    plugin: Outlook | None = None
    """Only with --target or --facts."""
    dsa: bool | None = None
    """Whether it is a problem of DeepSeek Sparse Attention; None where the log does not tell."""
    possible: tuple[PossibleCause, ...] = ()
    """Where a log alone cannot decide between causes: each of them."""
    collect: tuple[str, ...] = ()
    """What to gather next, where the cause is not known."""


class LogContext(Fact):
    """What the log tells of its circumstances; None where it does not."""

    lines: int
    bytes: int
    engine: str | None = None
    engine_version: str | None = None
    torch_version: str | None = None
    model: str | None = None
    uses_dsa: bool | None = None
    gpu: str | None = None
    capability: str | None = None
    capability_source: str | None = None
    """"line N" of the log, "--target" or "--facts"."""
    attention_backend: str | None = None
    """The backend that the log says was chosen."""
    platform: str | None = None
    """"cuda", "rocm", "cpu", "npu", "xpu", "tpu"."""
    arguments: dict[str, str] = Field(default_factory=dict)
    """Options of the server as the log records them, redacted."""
    starts: int = 0
    """How often the log shows the server's start."""
    ready_line: int | None = None
    """Where it said last that it was ready."""
    end: str = "unclear"
    """"healthy", "stopped" (in order), "failed", "request failed" (and the server goes on), "stuck", "unfinished"
    (during the start) or "unclear"."""
    stage: str | None = None
    """What the server was at when it failed or the log ended, where that was before it was ready."""
    cut_off: bool = False
    """Whether something is missing from the log: what it refers to, or its end."""


class Explanation(Fact):
    """The whole answer of `dsa-doctor explain`."""

    schema_version: str = EXPLANATION_SCHEMA_VERSION
    dsa_doctor_version: str
    findings: tuple[LogFinding, ...]
    """Root cause first: in the order in which the log shows them."""
    context: LogContext
    message: str
    exit_code: int
    dsa_problem: bool | None = None
    """Whether what failed is a problem of DeepSeek Sparse Attention; None: nothing failed, or it cannot be told."""
    notes: tuple[str, ...] = ()
    """What is worth knowing and no failure: errors that the server survived, several starts, a draft that is no use."""


def exit_code_of(findings: tuple[LogFinding, ...]) -> int:
    """Return 0 without findings, bits 4, 8, 16 for the layers found, 32 where only `runtime` was: as `check` does."""
    code = 0
    for finding in findings:
        if finding.layer != "runtime":
            code |= EXIT_BITS[finding.layer]
    return code or (EXIT_UNDETERMINED if findings else 0)
