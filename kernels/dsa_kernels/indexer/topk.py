"""The public selection op: the exact k largest of each row."""

from __future__ import annotations

import torch

from dsa_kernels.errors import expect, expect_contiguous_last, expect_same_device, expect_tensor
from dsa_kernels.indexer.config import (
    EMIT_WARPS,
    FEWEST_PARTS,
    MAX_PARTS,
    ROW_BLOCK,
    ROW_WARPS,
    SELECT_BLOCK,
    SELECT_WARPS,
    SMALLEST_PART,
    THIN_BLOCKS,
)
from dsa_kernels.indexer.select_kernels import (
    count_part_kernel,
    emit_part_kernel,
    select_block_kernel,
    select_row_kernel,
    tally_part_kernel,
    thin_kernel,
)
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
    Of equal values (0.0 and -0.0 are equal) the lower position is selected. A radix select over all 32 bits: no
    distribution of values can overflow it. Long rows of small batches are shared by several programs.

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


def plan_parts(num_rows: int, width: int, multiprocessors: int) -> int:
    """Programs that share a row, from shapes alone.

    Enough to give every multiprocessor one, but none at all where they would be few: sharing reads the row six times,
    a program of its own three times.
    """
    wanted = multiprocessors // num_rows
    if wanted < FEWEST_PARTS:
        return 1
    return max(1, min(wanted, width // SMALLEST_PART, MAX_PARTS))


def _select(
    logits: torch.Tensor, row_starts: torch.Tensor | None, row_ends: torch.Tensor, k: int, out: torch.Tensor
) -> None:
    num_rows, width = logits.shape
    starts = row_ends if row_starts is None else row_starts
    tile = {"HAS_STARTS": row_starts is not None, "BLOCK": SELECT_BLOCK, "num_warps": SELECT_WARPS}
    parts = plan_parts(num_rows, width, device_facts(logits.device)[1])
    stride, out_stride = logits.stride(0), out.stride(0)
    if parts == 1:
        # Rows that fit a block need no scratch; the pointers are then never followed.
        thinned = width > SELECT_BLOCK
        found, count = row_ends, row_ends
        if thinned:
            found = torch.empty((num_rows, SELECT_BLOCK), dtype=torch.int32, device=logits.device)
            count = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
            thin_kernel[(num_rows,)](
                logits, starts, row_ends, found, count, width, stride, k, BLOCKS=THIN_BLOCKS, **tile
            )
        select_block_kernel[(num_rows,)](
            logits, starts, row_ends, found, count, out, width, stride, k, out_stride, THINNED=thinned, **tile
        )
        if thinned:
            select_row_kernel[(num_rows,)](
                logits,
                starts,
                row_ends,
                count,
                out,
                width,
                stride,
                k,
                out_stride,
                HAS_STARTS=row_starts is not None,
                LIMIT=SELECT_BLOCK,
                BLOCK=ROW_BLOCK,
                num_warps=ROW_WARPS,
            )
        return
    grid = (num_rows, parts)
    totals = torch.zeros((num_rows, 4, 256), dtype=torch.int32, device=logits.device)
    tally = torch.empty((num_rows, parts, 2), dtype=torch.int32, device=logits.device)
    for index in range(4):
        count_part_kernel[grid](logits, starts, row_ends, totals, width, stride, k, parts, PASS=index, **tile)
    tally_part_kernel[grid](logits, starts, row_ends, totals, tally, width, stride, k, parts, **tile)
    emit_part_kernel[grid](
        logits,
        starts,
        row_ends,
        totals,
        tally,
        out,
        width,
        stride,
        k,
        out_stride,
        parts,
        MAX_PARTS=MAX_PARTS,
        **(tile | {"num_warps": EMIT_WARPS}),
    )
