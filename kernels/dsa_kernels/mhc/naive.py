"""The truth for mHC's pre-norm product, in plain torch."""

from __future__ import annotations

import torch


def naive_hc_prenorm(x: torch.Tensor, fn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the splits of `hc_prenorm_gemm` add up to: x [m, k] times fn [n, k] transposed, and the sums of x squared.

    Returns:
        ([m, n] fp64, [m] fp64).
    """
    wide = x.double()
    return wide @ fn.double().T, wide.square().sum(-1)
