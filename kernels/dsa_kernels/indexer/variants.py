"""The specialisations that serving meets on a target, for ahead-of-time compilation."""

from __future__ import annotations

from typing import Any

from dsa_kernels import gluon_support
from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.fp8.variants import make_variant
from dsa_kernels.indexer.config import (
    BOUND_WARPS,
    CLEAN_BLOCK,
    GATHER_WORDS,
    HEAD_DIM,
    LONG_WARPS,
    MARK_WARPS,
    MARK_WORDS,
    MAXIMA_COLUMNS,
    MAXIMA_REPEATS,
    MAXIMA_WARPS,
    ROW_REPEATS,
    SELECT_BLOCK,
    SELECT_WARPS,
    THIN_GROUPS,
    WIDEN_BLOCK,
    dots_per_row,
    long_registers,
    padded_heads,
    paged_registers,
    paged_steps,
    rows_per_step,
)
from dsa_kernels.indexer.dispatch import LogitsConfig, paged_config, ragged_config
from dsa_kernels.indexer.logits_kernels import clean_kernel, paged_kernel, widen_kernel
from dsa_kernels.indexer.ragged import logits_kernel
from dsa_kernels.indexer.select_kernels import select_kernel
from dsa_kernels.indexer.thin_kernels import bound_kernel, mark_kernel, maxima_kernel

#: Head counts of the models (GLM-5: 32, DeepSeek-V3.2: 64).
HEAD_COUNTS = (32, 64)

#: Draft tokens that are compiled for ahead of time.
NEXT_N = (1, 2, 4)

#: Tokens of a page of the indexer's cache in vLLM.
PAGE_SIZE = 64


def ragged_variant(config: LogitsConfig, heads: int, compressed: bool) -> KernelVariant:
    """The ragged logits kernel for a configuration, as a launch would specialise it."""
    padded = padded_heads(heads)
    kernel, keywords = logits_kernel(config)
    return make_variant(
        "fp8_mqa_logits",
        f"{heads} heads x {config.block_n} keys, {'compressed' if compressed else 'full width'}",
        kernel,
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
            "PADDED": padded,
            "HEAD_DIM": HEAD_DIM,
            "ROWS": rows_per_step(config, padded),
            "ROW_BLOCK": config.row_block,
            "BLOCK_N": config.block_n,
            "COMPRESSED": compressed,
            **{name: value for name, value in keywords.items() if name in kernel.arg_names},
        },
        config.num_warps,
        config.num_stages,
        wide_copies=True,
        maxnreg=config.maxnreg,
    )


def paged_variant(capability: int, heads: int, next_n: int, page_size: int = PAGE_SIZE) -> KernelVariant:
    """The paged logits kernel on a target, as a launch would specialise it."""
    padded = padded_heads(heads)
    config = paged_config(capability, padded, next_n)
    rows, steps = paged_steps(config, padded, next_n)
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
            "STEPS": steps,
            "ROWS": rows,
            "PARTS": dots_per_row(config, padded),
            "HEADS": heads,
            "PADDED": padded,
            "HEAD_DIM": HEAD_DIM,
            "PAGE_SIZE": page_size,
            "BLOCK_N": config.block_n,
            "INLINE": True,
        },
        config.num_warps,
        config.num_stages,
        maxnreg=paged_registers(capability, steps * padded),
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


def _select_variants(capability: int) -> list[KernelVariant]:
    groups: dict[str, object] = {"GROUPS": THIN_GROUPS}
    columns: dict[str, object] = {"COLUMNS": MAXIMA_COLUMNS, "REPEATS": MAXIMA_REPEATS}
    row: dict[str, object] = {
        "REPEATS": ROW_REPEATS,
        "MARK_WORDS": MARK_WORDS,
        "GATHER_WORDS": GATHER_WORDS,
        "BLOCK": SELECT_BLOCK,
    }
    kernels: list[tuple[str, Any, dict[str, object], int, int | None]] = [
        ("maxima", maxima_kernel, groups | columns, MAXIMA_WARPS, None),
        ("bound", bound_kernel, groups, BOUND_WARPS, None),
        ("mark", mark_kernel, {"WORDS": MARK_WORDS}, MARK_WARPS, None),
        ("short rows", select_kernel, groups | row | {"LONG": False}, SELECT_WARPS, None),
        ("rows of any length", select_kernel, groups | row | {"LONG": True}, LONG_WARPS, long_registers(capability)),
    ]
    integers = ("starts", "ends", "bounds", "words", "found", "out")
    types = {"logits_ptr": "*fp32", "maxima_ptr": "*fp32", **{f"{name}_ptr": "*i32" for name in integers}}
    return [
        make_variant(
            "topk_indices",
            f"{name}{', row starts' if has_starts else ''}",
            kernel,
            types,
            {"HAS_STARTS": has_starts, **constants},
            num_warps,
            maxnreg=maxnreg,
        )
        for name, kernel, constants, num_warps, maxnreg in kernels
        for has_starts in (False, True)
    ]


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant on `capability` (80 means 8.0)."""
    found = _helper_variants() + _select_variants(capability)
    for heads in HEAD_COUNTS:
        padded = padded_heads(heads)
        ragged = ragged_config(capability, padded, gluon_support.USABLE)
        found.extend(ragged_variant(ragged, heads, compressed) for compressed in (False, True))
        found.extend(paged_variant(capability, heads, next_n) for next_n in NEXT_N)
    return found
