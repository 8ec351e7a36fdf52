"""What the machine can do at best, measured in the same run as the kernels."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
from timing import time_calls


@dataclass(frozen=True)
class Machine:
    """The GPU, the software and two measured ceilings."""

    gpu: str
    capability: str
    override_arch: str
    torch: str
    triton: str
    copy_bytes_per_s: float
    bf16_flop_per_s: float
    l2_bytes: int


def measure_machine() -> Machine:
    """Measure a large copy (bytes read plus written) and a large bf16 product on random data."""
    source = torch.randn(2**29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copy = time_calls([lambda: target.copy_(source)])
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = time_calls([lambda: torch.mm(a, b)])
    properties = torch.cuda.get_device_properties(0)
    return Machine(
        gpu=properties.name,
        capability=f"{properties.major}.{properties.minor}",
        override_arch=os.environ.get("TRITON_OVERRIDE_ARCH", ""),
        torch=torch.__version__,
        triton=triton.__version__,
        copy_bytes_per_s=2 * source.numel() * 2 / (copy.median_us * 1e-6),
        bf16_flop_per_s=2 * side**3 / (product.median_us * 1e-6),
        l2_bytes=properties.L2_cache_size,
    )
