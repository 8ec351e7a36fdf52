"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

import torch

from dsa_kernels.mhc.config import COLUMNS, UNIT
from dsa_kernels.mhc.dispatch import ROUTES
from dsa_kernels.mhc.interface import hc_prenorm_gemm
from dsa_kernels.targets import device_facts


def warmup_mhc(device: torch.device | str = "cuda") -> None:
    """Compile the kernels on one device, so that nothing compiles during graph capture or serving.

    What specialises: tokens of a tile. What does not: numbers of tokens and of splits, k, rows of fn.

    Args:
        device: where to compile.
    """
    fn = torch.zeros((COLUMNS, UNIT), dtype=torch.float32, device=device)
    # As many splits as fill the device, so that each row of the table serves the fewest tokens that it is for.
    splits = device_facts(fn.device)[1]
    for route in ROUTES:
        x = torch.zeros((route.least_tokens, UNIT), dtype=torch.bfloat16, device=device)
        out = torch.empty((splits, route.least_tokens, COLUMNS), dtype=torch.float32, device=device)
        sqrsum = torch.empty((splits, route.least_tokens), dtype=torch.float32, device=device)
        hc_prenorm_gemm(x, fn, out, sqrsum, splits)
