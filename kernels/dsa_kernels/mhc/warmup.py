"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

import torch

from dsa_kernels.mhc.config import COLUMNS, LONG_SPLIT, UNIT
from dsa_kernels.mhc.dispatch import ROUTES
from dsa_kernels.mhc.interface import hc_prenorm_gemm
from dsa_kernels.targets import device_facts


def warmup_mhc(device: torch.device | str = "cuda") -> None:
    """Compile the kernels on one device, so that nothing compiles during graph capture or serving.

    What specialises: tokens of a tile. What does not: numbers of tokens and of splits, k, rows of fn.

    Args:
        device: where to compile.
    """
    multiprocessors = device_facts(torch.zeros(1, device=device).device)[1]
    # As many splits as fill the device, so that each row of the table serves the fewest tokens that it is for; then one
    # long split, which is cut into parts.
    shapes = [(route.least_tokens, UNIT, multiprocessors) for route in ROUTES] + [(1, LONG_SPLIT, 1)]
    for tokens, k, splits in shapes:
        x = torch.zeros((tokens, k), dtype=torch.bfloat16, device=device)
        fn = torch.zeros((COLUMNS, k), dtype=torch.float32, device=device)
        out = torch.empty((splits, tokens, COLUMNS), dtype=torch.float32, device=device)
        hc_prenorm_gemm(x, fn, out, torch.empty((splits, tokens), dtype=torch.float32, device=device), splits)
