"""Judge: what the records of a self-test mean. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsa_doctor.verify.plan import FINDING_OF, GROUPS
from dsa_doctor.verify.selftest import Record

BAD = ("fail", "error", "crash")

#: What CUDA says of an op that has no code for this GPU, and the finding of that.
_NO_CODE = ("no kernel image is available", "DSA102")


@dataclass(frozen=True)
class Judged:
    """A record, and the finding that it gives ('' for none)."""

    record: Record
    finding: str


@dataclass(frozen=True)
class Report:
    """A judged run.

    Attributes:
        machine: what ran it.
        cases: in the order of the groups.
        seconds: wall-clock time of the whole.
    """

    machine: dict[str, Any]
    cases: tuple[Judged, ...]
    seconds: float

    def count(self, *statuses: str) -> int:
        """Cases of these statuses."""
        return sum(case.record.status in statuses for case in self.cases)

    @property
    def ok(self) -> bool:
        """Whether something ran, nothing failed and nothing is unknown."""
        return self.count("pass") > 0 and self.count(*BAD, "unknown") == 0

    @property
    def findings(self) -> tuple[str, ...]:
        """The ids that the failures give, each once, sorted."""
        return tuple(sorted({case.finding for case in self.cases if case.finding}))


def judge_record(record: Record) -> Judged:
    """What one record means."""
    if record.status not in BAD:
        return Judged(record, "")
    message, no_code = _NO_CODE
    if message in record.got:
        return Judged(record, no_code)
    finding = FINDING_OF.get(record.op) or FINDING_OF[GROUPS[record.group][0]]
    return Judged(record, finding)


def judge(machine: dict[str, Any], cases: Sequence[Judged], seconds: float) -> Report:
    """The report of all cases."""
    order = list(GROUPS)
    ordered = sorted(cases, key=lambda case: order.index(case.record.group))
    return Report(machine, tuple(ordered), seconds)
