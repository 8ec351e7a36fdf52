"""The specialisations that serving meets, for ahead-of-time compilation."""

from __future__ import annotations

from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.compressor.config import INDEX_DIM, INDEX_WARPS, KEY_WARPS, ROW_DIM, ROW_WARPS, rows_of_step
from dsa_kernels.compressor.kernels import compress_kernel, index_key_kernel, inverse_rope_kernel
from dsa_kernels.fp8.variants import make_variant

#: Width of DeepSeek-V4's rope.
ROPE = 64

#: Query heads of an output group, in Flash (64 heads, 8 groups) and Pro (128, 16), whatever the ranks.
GROUP_HEADS = 8

#: (ratio, overlap) of DeepSeek-V4's layers that compress.
GROUPS = ((4, True), (128, False))


def compress_variant(width: int, ratio: int, overlap: bool) -> KernelVariant:
    """The compressor for rows or index keys, as a launch would specialise it."""
    index = width == INDEX_DIM
    return make_variant(
        "compress_to_index_keys" if index else "compress_to_rows",
        f"groups of {ratio}{', overlapping' if overlap else ''}",
        compress_kernel,
        {
            "state_ptr": "*fp32",
            "request_ptr": "*i32",
            "position_ptr": "*i64",
            "state_slot_ptr": "*i64",
            "table_ptr": "*i32",
            "weight_ptr": "*fp32",
            "cos_sin_ptr": "*fp32",
            "cache_ptr": "*u8" if index else "*bf16",
            "slot_ptr": "*i64",
            "eps": "fp32",
        },
        {
            "WIDTH": width,
            "ROPE": ROPE,
            "RATIO": ratio,
            "OVERLAP": overlap,
            "STEP": rows_of_step(width, ratio * (2 if overlap else 1)),
            "INDEX": index,
        },
        INDEX_WARPS if index else ROW_WARPS,
    )


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant; the tiles are the same on every target."""
    del capability
    return [
        *(compress_variant(ROW_DIM, *group) for group in GROUPS),
        compress_variant(INDEX_DIM, *GROUPS[0]),
        make_variant(
            "index_key_norm_rope_store",
            "groups of 2",
            index_key_kernel,
            {
                "k_ptr": "*bf16",
                "position_ptr": "*i64",
                "weight_ptr": "*bf16",
                "cos_sin_ptr": "*fp32",
                "cache_ptr": "*u8",
                "slot_ptr": "*i64",
                "eps": "fp32",
            },
            {"WIDTH": INDEX_DIM, "ROPE": ROPE, "RATIO": 2},
            KEY_WARPS,
        ),
        make_variant(
            "inverse_rope_grouped",
            f"bf16, groups of {GROUP_HEADS} heads",
            inverse_rope_kernel,
            {"o_ptr": "*bf16", "position_ptr": "*i64", "cos_sin_ptr": "*fp32", "out_ptr": "*bf16"},
            {"GROUP": GROUP_HEADS, "WIDTH": ROW_DIM, "ROPE": ROPE},
            INDEX_WARPS,
        ),
    ]
