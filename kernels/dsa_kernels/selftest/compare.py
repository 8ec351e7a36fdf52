"""Measured errors of results against references, and the outcomes they give."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dsa_kernels.selftest.case import Outcome

_KINDS = (torch.isnan, torch.isposinf, torch.isneginf)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The first that failed; where all passed, the one nearest to its limit."""
    gathered = list(outcomes)
    for outcome in gathered:
        if not outcome.passed:
            return outcome
    return max(gathered, key=lambda outcome: outcome.error / outcome.limit if outcome.limit else 0.0)


def same_kinds(name: str, got: torch.Tensor, expected: torch.Tensor) -> Outcome | None:
    """A failure where the shapes differ or NaN and infinities are not at the same places; None where they agree."""
    if got.shape != expected.shape:
        return Outcome(False, float("inf"), 0, f"{name} of shape {list(expected.shape)}", f"{list(got.shape)}")
    for of in _KINDS:
        wrong = of(got) != of(expected)
        count = int(wrong.sum())
        if count:
            where = [int(index) for index in wrong.nonzero()[0]]
            place = tuple(where)
            return Outcome(
                False, float(count), 0, f"{name}{where} = {float(expected[place]):.6g}", f"{float(got[place]):.6g}"
            )
    return None


def relative_error(name: str, got: torch.Tensor, expected: torch.Tensor, limit: float, dims: int = 1) -> Outcome:
    """The worst ‖got − expected‖ / ‖expected‖ over groups of the last `dims` dimensions; `expected` is in fp64.

    NaN and infinities have to be at the same places; only what is finite is measured.
    """
    failed = same_kinds(name, got, expected)
    if failed:
        return failed
    finite = torch.isfinite(expected)
    wanted = torch.where(finite, expected, 0).flatten(-dims)
    difference = torch.where(finite, got.to(torch.float64), 0).flatten(-dims) - wanted
    if wanted.numel() == 0:
        return Outcome(True, 0.0, limit)
    norms, distances = wanted.norm(dim=-1), difference.norm(dim=-1)
    errors = torch.where(norms > 0, distances / norms, torch.where(distances > 0, float("inf"), 0.0)).reshape(-1)
    error, at = errors.max(dim=0)
    if float(error) <= limit:
        return Outcome(True, float(error), limit)
    group = int(at)
    wanted, found = expected.flatten(-dims), got.flatten(-dims)
    row_wanted, row_found = wanted.reshape(-1, wanted.shape[-1])[group], found.reshape(-1, wanted.shape[-1])[group]
    element = int(difference.reshape(-1, wanted.shape[-1])[group].abs().argmax())
    return Outcome(
        False,
        float(error),
        limit,
        f"{name} group {group}, element {element} = {float(row_wanted[element]):.6g}",
        f"{float(row_found[element]):.6g}",
    )


def equal(name: str, got: torch.Tensor, expected: torch.Tensor) -> Outcome:
    """Bit-equal integers or floats (NaN equals NaN); the error counts the elements that differ."""
    if got.shape != expected.shape:
        return Outcome(False, float("inf"), 0, f"{name} of shape {list(expected.shape)}", f"{list(got.shape)}")
    wrong = got != expected
    if got.dtype.is_floating_point:
        wrong &= ~(torch.isnan(got) & torch.isnan(expected))
    count = int(wrong.sum())
    if count == 0:
        return Outcome(True, 0.0, 0.0)
    place = tuple(int(index) for index in wrong.nonzero()[0])
    return Outcome(
        False,
        float(count),
        0.0,
        f"{name}{list(place)} = {expected[place].item()}",
        f"{got[place].item()}; {count} of {got.numel()} differ",
    )


def require(condition: bool, expected: str, got: str) -> Outcome:
    """A plain yes or no."""
    return Outcome(True, 0.0, 0.0) if condition else Outcome(False, 1.0, 0.0, expected, got)
