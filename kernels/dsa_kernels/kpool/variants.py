"""The specialisations that serving meets, for ahead-of-time compilation."""

from __future__ import annotations

from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.fp8.variants import make_variant
from dsa_kernels.kpool.config import BLOCK_POOLS, BLOCK_ROWS, DECODE_WARPS, POOL_WARPS, ROW_WARPS
from dsa_kernels.kpool.kernels import compress_kernel, decode_kernel, rotate_quantize_kernel

#: Tokens of a pool in GLM-5.3-Flash.
POOL = 4


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant; the tiles are the same on every target."""
    del capability
    pooled = {"key_ptr": "*bf16", "gate_ptr": "*bf16", "ape_ptr": "*fp32", "cache_ptr": "*u8"}
    return [
        make_variant(
            "hadamard_quantize_fp8",
            "bf16",
            rotate_quantize_kernel,
            {"x_ptr": "*bf16", "codes_ptr": "*u8", "scale_ptr": "*fp32"},
            {"BLOCK": BLOCK_ROWS},
            ROW_WARPS,
        ),
        *(
            make_variant(
                "kpool_compress_and_cache",
                f"pools of {POOL}{', masked' if has_mask else ''}",
                compress_kernel,
                pooled | {"slot_ptr": "*i64", "mask_ptr": "*u8" if has_mask else "*i64"},
                {"POOL": POOL, "HAS_MASK": has_mask, "UE8M0": True, "BLOCK": BLOCK_POOLS},
                POOL_WARPS,
            )
            for has_mask in (True, False)
        ),
        make_variant(
            "kpool_decode_update",
            f"pools of {POOL}",
            decode_kernel,
            pooled | {"slot_ptr": "*i64", "tail_slot_ptr": "*i64", "position_ptr": "*i32", "tail_ptr": "*bf16"},
            {"POOL": POOL, "UE8M0": True},
            DECODE_WARPS,
        ),
    ]
