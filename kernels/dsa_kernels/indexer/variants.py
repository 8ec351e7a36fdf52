"""The specialisations that serving meets on a target, for ahead-of-time compilation."""

from __future__ import annotations

from typing import Any

from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.fp8.variants import make_variant
from dsa_kernels.indexer.config import (
    CLEAN_BLOCK,
    EMIT_WARPS,
    HEAD_DIM,
    MAX_PARTS,
    ROW_BLOCK,
    ROW_WARPS,
    SELECT_BLOCK,
    SELECT_WARPS,
    THIN_BLOCKS,
    WIDEN_BLOCK,
    LogitsConfig,
    padded_heads,
    paged_config,
    ragged_config,
    rows_per_step,
)
from dsa_kernels.indexer.logits_kernels import clean_kernel, paged_kernel, ragged_kernel, widen_kernel
from dsa_kernels.indexer.select_kernels import (
    count_part_kernel,
    emit_part_kernel,
    select_block_kernel,
    select_row_kernel,
    tally_part_kernel,
    thin_kernel,
)

#: Head counts of the models (GLM-5: 32, DeepSeek-V3.2: 64).
HEAD_COUNTS = (32, 64)

#: Draft tokens that are compiled for ahead of time.
NEXT_N = (1, 2, 4)

#: Tokens of a page of the indexer's cache in vLLM.
PAGE_SIZE = 64


def ragged_variant(config: LogitsConfig, heads: int, compressed: bool) -> KernelVariant:
    """The ragged logits kernel for a configuration, as a launch would specialise it."""
    padded = padded_heads(heads)
    return make_variant(
        "fp8_mqa_logits",
        f"{heads} heads x {config.block_n} keys, {'compressed' if compressed else 'full width'}",
        ragged_kernel,
        {
            "wide_ptr": "*fp16",
            "wide_k_ptr": "*fp16",
            "k_scale_ptr": "*fp32",
            "weights_ptr": "*fp32",
            "starts_ptr": "*i32",
            "ends_ptr": "*i32",
            "out_ptr": "*fp32",
        },
        {
            "HEADS": heads,
            "PADDED": padded,
            "HEAD_DIM": HEAD_DIM,
            "ROWS": rows_per_step(config, padded),
            "ROW_BLOCK": config.row_block,
            "BLOCK_N": config.block_n,
            "COMPRESSED": compressed,
        },
        config.num_warps,
        config.num_stages,
        wide_copies=True,
    )


def paged_variant(config: LogitsConfig, heads: int, next_n: int, page_size: int = PAGE_SIZE) -> KernelVariant:
    """The paged logits kernel for a configuration, as a launch would specialise it."""
    return make_variant(
        "fp8_paged_mqa_logits",
        f"{heads} heads x {config.block_n} keys, next_n {next_n}, pages of {page_size}",
        paged_kernel,
        {
            "q_ptr": "*i16",
            "cache_ptr": "*i16",
            "weights_ptr": "*fp32",
            "lengths_ptr": "*i32",
            "table_ptr": "*i32",
            "out_ptr": "*fp32",
        },
        {
            "NEXT_N": next_n,
            "HEADS": heads,
            "PADDED": padded_heads(heads),
            "HEAD_DIM": HEAD_DIM,
            "PAGE_SIZE": page_size,
            "BLOCK_N": config.block_n,
        },
        config.num_warps,
        config.num_stages,
    )


def _helper_variants() -> list[KernelVariant]:
    found = [
        make_variant(
            "fp8_mqa_logits",
            "fill with -inf",
            clean_kernel,
            {"out_ptr": "*fp32", "starts_ptr": "*i32", "ends_ptr": "*i32"},
            {"BLOCK": CLEAN_BLOCK},
            num_warps=4,
        )
    ]
    for heads in (1, *HEAD_COUNTS):
        padded = 1 if heads == 1 else padded_heads(heads)
        found.append(
            make_variant(
                "fp8_mqa_logits",
                f"widen {'k' if heads == 1 else f'q, {heads} heads'}",
                widen_kernel,
                {"codes_ptr": "*u8", "wide_ptr": "*fp16"},
                {"HEADS": heads, "PADDED": padded, "HEAD_DIM": HEAD_DIM, "BLOCK": WIDEN_BLOCK // HEAD_DIM},
                num_warps=4,
            )
        )
    return found


def _select_variants() -> list[KernelVariant]:
    kernels: list[tuple[str, Any, dict[str, object], int]] = [
        ("thin out", thin_kernel, {"BLOCKS": THIN_BLOCKS}, SELECT_WARPS),
        ("block", select_block_kernel, {"THINNED": False}, SELECT_WARPS),
        ("block, thinned", select_block_kernel, {"THINNED": True}, SELECT_WARPS),
        ("whole row", select_row_kernel, {"LIMIT": SELECT_BLOCK, "BLOCK": ROW_BLOCK}, ROW_WARPS),
        ("tally", tally_part_kernel, {}, SELECT_WARPS),
        ("emit", emit_part_kernel, {"MAX_PARTS": MAX_PARTS}, EMIT_WARPS),
    ]
    for index in range(4):
        kernels.append((f"digits of pass {index}", count_part_kernel, {"PASS": index}, SELECT_WARPS))
    types = {
        "logits_ptr": "*fp32",
        **dict.fromkeys(
            ("starts_ptr", "ends_ptr", "found_ptr", "count_ptr", "out_ptr", "totals_ptr", "tally_ptr"), "*i32"
        ),
    }
    return [
        make_variant(
            "topk_indices",
            f"{name}{', row starts' if has_starts else ''}",
            kernel,
            types,
            {"HAS_STARTS": has_starts, "BLOCK": SELECT_BLOCK, **constants},
            num_warps,
        )
        for name, kernel, constants, num_warps in kernels
        for has_starts in (False, True)
    ]


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant on `capability` (80 means 8.0)."""
    found = _helper_variants() + _select_variants()
    for heads in HEAD_COUNTS:
        padded = padded_heads(heads)
        ragged = ragged_config(capability, padded)
        found.extend(ragged_variant(ragged, heads, compressed) for compressed in (False, True))
        paged = paged_config(capability, padded)
        found.extend(paged_variant(paged, heads, next_n) for next_n in NEXT_N)
    return found
