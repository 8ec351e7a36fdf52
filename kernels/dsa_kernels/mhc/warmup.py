"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dsa_kernels.mhc.config import COLUMNS
from dsa_kernels.mhc.dispatch import ROUTES
from dsa_kernels.mhc.interface import hc_prenorm_gemm
from dsa_kernels.targets import device_facts


def warmup_mhc(widths: Sequence[int], columns: int = COLUMNS, device: torch.device | str = "cuda") -> None:
    """Compile the kernels for one model on one device, so that nothing compiles during graph capture or serving.

    What specialises: tokens of a tile, and whether a step divides k. What does not: numbers of tokens, splits, columns.

    Args:
        widths: each k that is met: four times the hidden size, and the hidden size for the first layer.
        columns: rows of fn.
        device: where to compile.
    """
    place = torch.zeros(1, device=device).device
    for k in widths:
        fn = torch.zeros((columns, k), dtype=torch.float32, device=place)
        for route in ROUTES:
            tokens = route.least_tokens
            x = torch.zeros((tokens, k), dtype=torch.bfloat16, device=place)
            # As many splits as fill the device, so that this row of the table serves.
            splits = device_facts(place)[1]
            out = torch.empty((splits, tokens, columns), dtype=torch.float32, device=place)
            hc_prenorm_gemm(x, fn, out, torch.empty((splits, tokens), dtype=torch.float32, device=place), splits)
