"""The public selection op: the exact k largest of each row."""

from __future__ import annotations

import torch

from dsa_kernels.errors import expect, expect_contiguous_last, expect_same_device, expect_tensor
from dsa_kernels.indexer.config import (
    BOUND_WARPS,
    GATHER_WORDS,
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
    long_registers,
    one_program_limit,
)
from dsa_kernels.indexer.select_kernels import select_kernel
from dsa_kernels.indexer.thin_kernels import bound_kernel, mark_kernel, maxima_kernel
from dsa_kernels.targets import device_facts

_BOUNDS = (torch.int32, torch.int64)


def topk_indices(
    logits: torch.Tensor,
    row_starts: torch.Tensor | None,
    row_ends: torch.Tensor,
    k: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The positions of the k largest values of each row, exactly, whatever the values.

    Row i selects from logits[i, row_starts[i]:row_ends[i]], bounds clamped to [0, N]. NaN and -inf are never selected.
    Of equal values (0.0 and -0.0 are equal) the lower position is selected. Rows longer than 4,096 are read twice, by
    one program each, or by many where there are few rows and they are very long; those of which more than 4,096
    elements may be selected (k beyond that, or equal values at the bound) are read more often, slower and just as
    exact. What is not shared costs time by the lengths of rows, not by N.

    Args:
        logits: [M, N] fp32, any row stride, contiguous last dimension; M may be 0.
        row_starts: [M] int32 or int64, or None for 0 everywhere.
        row_ends: int32 or int64 with M elements, such as [M] or [B, next_n], exclusive.
        k: at least 1; need not be a multiple of anything, may exceed N.
        out: [M, k] int32 with a contiguous last dimension, written and returned; allocated when None.

    Returns:
        [M, k] int32: positions relative to row_starts in ascending order of position, then -1 where a row has fewer
        than k values to select. The same inputs give the same bits.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Scratch where N > 4,096: 16 KiB + 8 bytes a row, and N + 31 rounded up to 8,192 columns at a bit each: a
    thirty-second of the logits.

    Nothing waits for the device, and allocations depend on shapes alone: safe under CUDA graph capture once
    `warmup_indexer` has compiled the kernels.

    Source: `top_k_per_row_prefill` and `top_k_per_row_decode` of vLLM, which leave ties and order open.
    """
    expect_tensor("logits", logits, ["M", "N"], [torch.float32])
    num_rows = logits.shape[0]
    expect_contiguous_last("logits", logits)
    if row_starts is not None:
        expect_tensor("row_starts", row_starts, [num_rows], _BOUNDS)
    fits = row_ends.numel() == num_rows and row_ends.dtype in _BOUNDS
    got = f"{row_ends.numel()} elements of {row_ends.dtype}"
    expect(fits, "row_ends", got, f"{num_rows} elements, one per row of logits, of int32 or int64")
    expect(k >= 1, "k", k, "an integer of at least 1")
    if out is None:
        out = torch.empty((num_rows, k), dtype=torch.int32, device=logits.device)
    expect_tensor("out", out, [num_rows, k], [torch.int32])
    expect_contiguous_last("out", out)
    expect_same_device("logits", logits, row_starts=row_starts, row_ends=row_ends, out=out)
    if num_rows:
        starts = None if row_starts is None else row_starts.contiguous()
        _select(logits, starts, row_ends.reshape(-1).contiguous(), k, out)
    return out


def _select(
    logits: torch.Tensor, row_starts: torch.Tensor | None, row_ends: torch.Tensor, k: int, out: torch.Tensor
) -> None:
    num_rows, width = logits.shape
    starts = row_ends if row_starts is None else row_starts
    stride = logits.stride(0)
    limit = one_program_limit(num_rows)
    # A row begins up to 31 elements behind its line.
    parts = -(-(width + 31) // (32 * MARK_WORDS))
    given = {"HAS_STARTS": row_starts is not None}
    groups = {"GROUPS": THIN_GROUPS, **given}
    is_long = width > SELECT_BLOCK
    # Rows that fit a block need no scratch; the pointers are then never followed.
    found = words = bounds = row_ends
    if is_long:
        # The maxima are done with when elements are gathered: both live in one buffer.
        found = _scratch(logits, num_rows * max(THIN_GROUPS, SELECT_BLOCK))
        words = _scratch(logits, num_rows * parts * MARK_WORDS)
        # Read for shared rows alone, but of one type for all.
        bounds = found
    if width > limit:
        bounds, maxima = _scratch(logits, num_rows * 2), found.view(torch.float32)
        maxima_kernel[(num_rows * (THIN_GROUPS // MAXIMA_COLUMNS),)](
            logits,
            starts,
            row_ends,
            maxima,
            width,
            limit,
            stride,
            COLUMNS=MAXIMA_COLUMNS,
            REPEATS=MAXIMA_REPEATS,
            num_warps=MAXIMA_WARPS,
            **groups,
        )
        bound_kernel[(num_rows,)](starts, row_ends, maxima, bounds, width, limit, k, num_warps=BOUND_WARPS, **groups)
        mark_kernel[(num_rows * parts,)](
            logits,
            starts,
            row_ends,
            bounds,
            words,
            width,
            limit,
            stride,
            parts,
            WORDS=MARK_WORDS,
            num_warps=MARK_WARPS,
            **given,
        )
    select_kernel[(num_rows,)](
        logits,
        starts,
        row_ends,
        found,
        words,
        bounds,
        out,
        width,
        limit,
        stride,
        k,
        out.stride(0),
        parts * MARK_WORDS,
        LONG=is_long,
        REPEATS=ROW_REPEATS,
        MARK_WORDS=MARK_WORDS,
        GATHER_WORDS=GATHER_WORDS,
        BLOCK=SELECT_BLOCK,
        num_warps=LONG_WARPS if is_long else SELECT_WARPS,
        maxnreg=long_registers(device_facts(logits.device)[0]) if is_long else None,
        **groups,
    )


def _scratch(logits: torch.Tensor, size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.int32, device=logits.device)
