"""The specialisations that serving meets, for ahead-of-time compilation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.fp8.config import CONVERT_BLOCK, CONVERT_WARPS, GROUP_BLOCK, GROUP_WARPS, HEAD_DIM
from dsa_kernels.fp8.kernels import convert_kernel, indexer_k_kernel, indexer_q_kernel, quantize_kernel


def make_variant(
    op: str,
    name: str,
    kernel: Any,
    types: Mapping[str, str],
    constexprs: Mapping[str, object],
    num_warps: int,
    num_stages: int = 3,
    wide_copies: bool = False,
    maxnreg: int | None = None,
) -> KernelVariant:
    """A variant whose unnamed arguments are i32; pointers lie on 16 bytes unless the kernel is told not to look."""
    signature = {
        argument: "constexpr" if argument in constexprs else types.get(argument, "i32") for argument in kernel.arg_names
    }
    free = {parameter.name for parameter in kernel.params if parameter.do_not_specialize_on_alignment}
    aligned = frozenset(name for name, type_name in signature.items() if type_name.startswith("*") and name not in free)
    return KernelVariant(op, name, kernel, signature, constexprs, aligned, num_warps, num_stages, wide_copies, maxnreg)


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant; the tiles are the same on every target."""
    del capability
    found = [
        make_variant(
            "encode_e4m3_tensor",
            "from bf16",
            convert_kernel,
            {"source_ptr": "*bf16", "target_ptr": "*u8"},
            {"ENCODE": True, "BLOCK": CONVERT_BLOCK},
            CONVERT_WARPS,
        ),
        make_variant(
            "decode_e4m3_tensor",
            "to bf16",
            convert_kernel,
            {"source_ptr": "*u8", "target_ptr": "*bf16"},
            {"ENCODE": False, "BLOCK": CONVERT_BLOCK},
            CONVERT_WARPS,
        ),
        make_variant(
            "quantize_fp8_ue8m0",
            "bf16, groups of 128",
            quantize_kernel,
            {"x_ptr": "*bf16", "codes_ptr": "*u8", "scale_ptr": "*fp32", "floor": "fp32"},
            {"GROUP": HEAD_DIM, "BLOCK": GROUP_BLOCK, "UE8M0": True},
            GROUP_WARPS,
        ),
        make_variant(
            "indexer_k_quant_and_cache",
            "bf16, ue8m0",
            indexer_k_kernel,
            {"k_ptr": "*bf16", "cache_ptr": "*u8", "slot_ptr": "*i64"},
            {"HEAD_DIM": HEAD_DIM, "BLOCK": GROUP_BLOCK, "UE8M0": True},
            GROUP_WARPS,
        ),
    ]
    # GLM-5, DeepSeek-V3.2, DeepSeek-V4.
    for neox, first, place in ((False, 0, ""), (True, 0, ""), (False, 64, ", last")):
        found.append(
            make_variant(
                "fused_indexer_q_rope_quant",
                f"bf16, rope 64, {'halves' if neox else 'neighbours'}{place}",
                indexer_q_kernel,
                {
                    "positions_ptr": "*i64",
                    "q_ptr": "*bf16",
                    "cos_sin_ptr": "*bf16",
                    "weights_ptr": "*bf16",
                    "codes_ptr": "*u8",
                    "weights_out_ptr": "*fp32",
                    "softmax_scale": "fp32",
                    "head_scale": "fp32",
                },
                {"ROPE": 64, "HEAD_DIM": HEAD_DIM, "BLOCK_H": GROUP_BLOCK, "NEOX": neox, "ROPE_FIRST": first},
                GROUP_WARPS,
            )
        )
    return found
