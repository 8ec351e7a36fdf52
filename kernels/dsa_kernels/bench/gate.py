"""The correctness gate: a speed is reported only for a result that is right."""

from __future__ import annotations

import torch


class GateError(RuntimeError):
    """A kernel's result is wrong; its speed must not be reported.

    Attributes:
        error: the relative error, NaN where there is none to speak of (masks differ, output not written).
    """

    def __init__(self, message: str, error: float = float("nan")) -> None:
        super().__init__(message)
        self.error = error


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖ in fp64; NaN where the finite entries do not stand in the same places."""
    got, wanted = got.double(), wanted.double()
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(got)):
        return float("nan")
    difference, size = (got[finite] - wanted[finite]).norm(), wanted[finite].norm()
    return float(difference / size) if size else float(difference)


def require(name: str, got: torch.Tensor, wanted: torch.Tensor, limit: float) -> float:
    """Return the relative error.

    Raises:
        GateError: when it is above `limit`, or the masks differ.
    """
    error = relative_error(got, wanted)
    if not error <= limit:
        raise GateError(f"{name}: relative error {error:.2e}, allowed {limit:.0e}", error)
    return error


def require_equal(name: str, got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return 0.0 for tensors that are equal bit for bit.

    Raises:
        GateError: for any difference; the message counts the elements.
    """
    if got.shape != wanted.shape or not torch.equal(got, wanted):
        count = int((got != wanted).sum()) if got.shape == wanted.shape else got.numel()
        raise GateError(f"{name}: {count} of {wanted.numel()} elements differ")
    return 0.0
