"""The public op that joins logits and selection under a memory budget."""

from __future__ import annotations

import torch

from dsa_kernels.errors import expect, expect_contiguous_last, expect_same_device, expect_tensor
from dsa_kernels.indexer.config import HEAD_DIM, padded_heads
from dsa_kernels.indexer.ragged import check_ragged, empty_logits, widen_keys, write_logits
from dsa_kernels.indexer.topk import topk_indices

#: Default of `indexer_topk`: 512 rows of fp32 logits at 131,072 keys.
DEFAULT_BUDGET_BYTES = 256 * 1024 * 1024


def indexer_topk(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cu_seq_len_k_start: torch.Tensor,
    cu_seq_len_k_end: torch.Tensor,
    k: int,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The k best keys of each row: logits and selection in chunks of rows, bit for bit what the two ops give.

    Args:
        q: [M, H, 128], as in `fp8_mqa_logits`; likewise kv, weights and the bounds.
        kv: k [N, 128] and k_scale [N].
        weights: [M, H] fp32.
        cu_seq_len_k_start: [M] int32, inclusive.
        cu_seq_len_k_end: [M] int32, exclusive.
        k: results of a row, at least 1.
        budget_bytes: most bytes that the logits of a chunk and its q in fp16 may take; a chunk has at least one row.
            Beside it N * 256 bytes hold k in fp16, and the selection has the scratch of `topk_indices`: 16 KiB a row
            of a chunk and a thirty-second of its logits.
        out: [M, k] int32 with a contiguous last dimension, written and returned; allocated when None.

    Returns:
        [M, k] int32, as `topk_indices`: positions relative to cu_seq_len_k_start, ascending, then -1.

    Raises:
        ArgumentError: as the two ops, and for a budget below 1.

    Nothing waits for the device, and allocations depend on shapes alone: safe under CUDA graph capture once
    `warmup_indexer` has compiled the kernels.

    Source: the chunked prefill of vLLM's sparse_attn_indexer, which chunks by request instead.
    """
    check_ragged(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end)
    expect(budget_bytes >= 1, "budget_bytes", budget_bytes, "a positive number of bytes")
    expect(k >= 1, "k", k, "an integer of at least 1")
    num_rows, num_keys = q.shape[0], kv[0].shape[0]
    if out is None:
        out = torch.empty((num_rows, k), dtype=torch.int32, device=q.device)
    expect_tensor("out", out, [num_rows, k], [torch.int32])
    expect_contiguous_last("out", out)
    expect_same_device("q", q, out=out)
    if num_rows == 0:
        return out
    if num_keys == 0:
        return out.fill_(-1)
    wide_keys = widen_keys(kv[0])
    rows = rows_per_chunk(num_rows, num_keys, q.shape[1], budget_bytes)
    # One buffer serves every chunk; what a chunk leaves behind lies outside the bounds of the next one's rows.
    logits = empty_logits(rows, num_keys, q.device)
    for first in range(0, num_rows, rows):
        chunk = slice(first, min(first + rows, num_rows))
        part = logits[: chunk.stop - first]
        starts, ends = cu_seq_len_k_start[chunk], cu_seq_len_k_end[chunk]
        write_logits(q[chunk], wide_keys, kv[1], weights[chunk], starts, ends, part, compressed=False)
        topk_indices(part, starts, ends, k, out=out[chunk])
    return out


def rows_per_chunk(num_rows: int, num_keys: int, num_heads: int, budget_bytes: int) -> int:
    """Rows whose logits and widened q fit the budget: at least 1, at most all, chunks of about equal size."""
    row_bytes = 4 * num_keys + 2 * HEAD_DIM * padded_heads(num_heads)
    most = min(num_rows, max(1, budget_bytes // row_bytes))
    chunks = -(-num_rows // most)
    return -(-num_rows // chunks)
