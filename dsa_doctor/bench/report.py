"""The outcome of `dsa-doctor bench`, and the judgement on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsa_doctor.bench.shapes import Setting

if TYPE_CHECKING:
    from dsa_kernels.bench import Machine, Result

EXIT_WRONG = 3
"""Exit status where a result was wrong or an op did not run."""


@dataclass(frozen=True)
class Report:
    """Everything that was measured, with the machine's ceilings of the same run."""

    setting: Setting
    machine: Machine
    results: tuple[Result, ...]
    seconds: float

    @property
    def bad(self) -> tuple[Result, ...]:
        """Results whose gate failed, and ops that did not run."""
        return tuple(one for one in self.results if one.status in ("wrong", "failed"))

    @property
    def exit_code(self) -> int:
        """0 where every result that was tried is right; a report without a right result is no success."""
        right = any(one.status == "ok" for one in self.results)
        return EXIT_WRONG if self.bad or not right else 0
