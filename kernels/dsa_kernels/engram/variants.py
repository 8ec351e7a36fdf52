"""The specialisations that serving meets, for ahead-of-time compilation."""

from __future__ import annotations

from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.engram.config import STEP_ROWS, WARPS
from dsa_kernels.engram.kernels import lookup_kernel
from dsa_kernels.fp8.variants import make_variant

#: Width of DeepSeek-V4.1's rows, and of a group with one scale.
WIDTH, GROUP = 256, 32


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant; the tiles are the same on every target."""
    del capability
    return [
        make_variant(
            "engram_lookup",
            f"rows of {WIDTH}, groups of {GROUP}",
            lookup_kernel,
            {"table_ptr": "*u8", "scale_ptr": "*u8", "id_ptr": "*i32", "out_ptr": "*bf16"},
            {"WIDTH": WIDTH, "GROUP": GROUP, "ROWS": STEP_ROWS},
            WARPS,
        )
    ]
