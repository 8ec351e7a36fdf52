"""The correctness gate: a speed is reported only for a result that is right."""

from __future__ import annotations

import torch


class GateError(RuntimeError):
    """A kernel's result is wrong; its speed must not be reported."""


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖ in fp64; NaN where the finite entries do not stand in the same places."""
    got, wanted = got.double(), wanted.double()
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(got)):
        return float("nan")
    return float((got[finite] - wanted[finite]).norm() / wanted[finite].norm())


def require(name: str, got: torch.Tensor, wanted: torch.Tensor, limit: float) -> float:
    """Return the relative error.

    Raises:
        GateError: when it is above `limit`, or the masks differ.
    """
    error = relative_error(got, wanted)
    if not error <= limit:
        raise GateError(f"{name}: relative error {error:.2e}, allowed {limit:.0e}")
    return error
