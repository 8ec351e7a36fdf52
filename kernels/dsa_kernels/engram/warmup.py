"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

import torch

from dsa_kernels.engram.interface import engram_lookup
from dsa_kernels.engram.variants import GROUP, WIDTH


def warmup_engram(width: int = WIDTH, group: int = GROUP, device: torch.device | str = "cuda") -> None:
    """Compile `engram_lookup` for one model on one device, so that nothing compiles during capture or serving.

    What specialises: the widths of rows and groups, the dtype of ids (vLLM's is int32). What does not: rows of the
    table and where it lies, tokens, heads, strides.

    Args:
        width: of a row.
        group: values with one scale.
        device: where to compile.
    """
    table = torch.zeros((1, width), dtype=torch.uint8, device=device)
    scales = torch.zeros((1, width // group), dtype=torch.uint8, device=device)
    ids = torch.zeros((1, 1), dtype=torch.int32, device=device)
    engram_lookup(table, scales, ids, torch.empty((1, 1, width), dtype=torch.bfloat16, device=device), 0)
