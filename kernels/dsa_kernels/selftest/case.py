"""What a self-test case is, what it says, and where its inputs come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Outcome:
    """What a case measured.

    Attributes:
        passed: whether the op did what its contract says.
        error: the worst measured error, in the unit of `limit`; a count of wrong elements where results must be equal.
        limit: the largest error that passes.
        expected: what was to come, where it failed.
        got: what came, where it failed.
    """

    passed: bool
    error: float
    limit: float
    expected: str = ""
    got: str = ""


@dataclass(frozen=True)
class Place:
    """Where a case runs, and how large.

    Attributes:
        device: a CUDA device, or the CPU under Triton's interpreter.
        full: serving shapes; otherwise the smallest shapes that still provoke the same thing.
    """

    device: torch.device
    full: bool

    def pick(self, full: int, small: int) -> int:
        """`full` at full size, `small` otherwise."""
        return full if self.full else small

    def generator(self, seed: int) -> torch.Generator:
        """A generator of random numbers on the device."""
        return torch.Generator(device=self.device).manual_seed(seed)

    def normal(self, generator: torch.Generator, *shape: int) -> torch.Tensor:
        """Normally distributed fp32 values."""
        return torch.randn(shape, generator=generator, device=self.device)

    def whole(self, generator: torch.Generator, low: int, high: int, *shape: int) -> torch.Tensor:
        """Integers of [low, high), int64."""
        return torch.randint(low, high, shape, generator=generator, device=self.device)

    def int32(self, values: list[int]) -> torch.Tensor:
        """These integers as int32."""
        return torch.tensor(values, dtype=torch.int32, device=self.device)


class CannotJudge(Exception):  # noqa: N818 (it is no error of the op)
    """The case cannot be run here; the message says why. Neither passed nor failed."""


class NotHere(Exception):  # noqa: N818 (nothing is wrong)
    """What the case examines is not on this machine, or is never called on it; the message says so."""


@dataclass(frozen=True)
class Case:
    """One self-test.

    Attributes:
        name: what is tested, unique within its op.
        op: one of `registry.OPS`.
        provokes: the fault that the case is made to show.
        run: runs it; raises CannotJudge or NotHere where there is nothing to measure, anything else where the op broke.
        gib: device memory that the full size needs.
    """

    name: str
    op: str
    provokes: str
    run: Callable[[Place], Outcome]
    gib: float = 1.0
