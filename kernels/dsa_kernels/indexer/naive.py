"""The truth for the indexer ops, in plain torch."""

from __future__ import annotations

import torch

from dsa_kernels.fp8.naive import naive_read_indexer_cache


def naive_scores(q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Σ_h weights[i, h] * relu(q[i, h] · k[j]), row by row so that memory stays small.

    Args:
        q: [M, H, D] in a float dtype.
        k: [N, D] in a float dtype.
        weights: [M, H].
        dtype: what to compute in.

    Returns:
        [M, N] in `dtype`.
    """
    keys = k.to(dtype).T
    rows = [
        weights[row].to(dtype) @ torch.relu(q[row].to(dtype) @ keys)  # [H] @ [H, N]
        for row in range(q.shape[0])
    ]
    return torch.stack(rows) if rows else torch.empty((0, k.shape[0]), dtype=dtype, device=q.device)


def naive_fp8_mqa_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cu_seq_len_k_start: torch.Tensor,
    cu_seq_len_k_end: torch.Tensor,
    max_seqlen_k: int = 0,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """The reference of `fp8_mqa_logits`; arguments as there, every element outside a row's bounds is -inf.

    Returns:
        [M, N], or [M, max_seqlen_k] compressed, in `dtype`.
    """
    k, scale = kv[0].view(torch.float8_e4m3fn).float(), kv[1].reshape(-1)
    num_rows, num_keys = q.shape[0], k.shape[0]
    scores = naive_scores(q.view(torch.float8_e4m3fn).float(), k, weights, dtype) * scale.to(dtype)
    columns = torch.arange(num_keys, device=q.device)
    starts = cu_seq_len_k_start.long().clamp_min(0)
    ends = cu_seq_len_k_end.long().clamp_max(num_keys)
    inside = (columns >= starts[:, None]) & (columns < ends[:, None])
    scores = scores.masked_fill(~inside, float("-inf"))
    if max_seqlen_k == 0:
        return scores
    compressed = torch.full((num_rows, max_seqlen_k), float("-inf"), dtype=dtype, device=q.device)
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        width = max(0, min(end - start, max_seqlen_k))
        compressed[row, :width] = scores[row, start : start + width]
    return compressed


def naive_row_lengths(context_lens: torch.Tensor, next_n: int) -> torch.Tensor:
    """Keys that each query row of a decode batch sees.

    Args:
        context_lens: [B] (length including all next_n draft tokens) or [B, next_n] (length of each row).
        next_n: query rows of a request.

    Returns:
        [B * next_n] int64, never negative.
    """
    if context_lens.dim() == 2:
        return context_lens.reshape(-1).long().clamp_min(0)
    steps = torch.arange(next_n, device=context_lens.device) - next_n + 1
    return (context_lens.long()[:, None] + steps).reshape(-1).clamp_min(0)


def naive_fp8_paged_mqa_logits(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    max_context_len: int,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """The reference of `fp8_paged_mqa_logits`; arguments as there, everything a row does not see is -inf.

    Returns:
        [B * next_n, max_context_len] in `dtype`.
    """
    batch, next_n = q.shape[0], q.shape[1]
    num_pages, page_size = kv_cache.shape[0], kv_cache.shape[1]
    logits = torch.full((batch * next_n, max_context_len), float("-inf"), dtype=dtype, device=q.device)
    lengths = naive_row_lengths(context_lens, next_n).tolist()
    for request in range(batch):
        longest = min(max(lengths[request * next_n : (request + 1) * next_n]), max_context_len)
        positions = torch.arange(longest, device=q.device)
        positions = positions[positions // page_size < block_tables.shape[1]]
        pages = block_tables[request].long()[positions // page_size]
        known = (pages >= 0) & (pages < num_pages)
        slots = torch.where(known, pages * page_size + positions % page_size, 0)
        k, scale = naive_read_indexer_cache(kv_cache, slots)
        rows = slice(request * next_n, (request + 1) * next_n)
        scores = naive_scores(q[request].view(torch.float8_e4m3fn).float(), k.float(), weights[rows], dtype)
        scores = (scores * scale.to(dtype)).masked_fill(~known, float("-inf"))
        for step in range(next_n):
            row = request * next_n + step
            width = min(lengths[row], positions.numel())
            logits[row, :width] = scores[step, :width]
    return logits


def naive_topk_indices(
    logits: torch.Tensor, row_starts: torch.Tensor | None, row_ends: torch.Tensor, k: int
) -> torch.Tensor:
    """The reference of `topk_indices`: a stable sort of each row.

    Returns:
        [M, k] int32: positions relative to row_starts in ascending order, then -1.
    """
    num_rows, width = logits.shape
    found = torch.full((num_rows, k), -1, dtype=torch.int32, device=logits.device)
    starts = [0] * num_rows if row_starts is None else row_starts.reshape(-1).tolist()
    for row, (start, end) in enumerate(zip(starts, row_ends.reshape(-1).tolist(), strict=True)):
        first = min(max(start, 0), width)
        values = logits[row, first : max(first, min(end, width))]
        allowed = torch.nonzero(~torch.isnan(values) & (values != float("-inf"))).flatten()
        # Stable: of equal values (0.0 and -0.0 are equal) the lower position comes first.
        order = torch.sort(values[allowed], descending=True, stable=True).indices[:k]
        chosen = torch.sort(allowed[order]).values
        found[row, : chosen.numel()] = (chosen + first - start).int()
    return found
