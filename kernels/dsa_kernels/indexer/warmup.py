"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dsa_kernels.indexer.chunked import indexer_topk
from dsa_kernels.indexer.config import HEAD_DIM, SMALLEST_PART
from dsa_kernels.indexer.paged import fp8_paged_mqa_logits
from dsa_kernels.indexer.ragged import fp8_mqa_logits
from dsa_kernels.indexer.topk import topk_indices


def warmup_indexer(
    num_heads: int, next_n: Sequence[int] = (1,), page_size: int = 64, device: torch.device | str = "cuda"
) -> None:
    """Compile the kernels for one model on one device, so that nothing compiles during graph capture or serving.

    What specialises: the number of heads, next_n, the page size, full width or compressed, row starts given or not.
    What does not: rows, keys, contexts, k, strides, widths of tables.

    Args:
        num_heads: heads of the indexer.
        next_n: every number of query rows of a request that decoding will meet.
        page_size: tokens of a page of the indexer's cache.
        device: where to compile.
    """
    q = torch.zeros((1, num_heads, HEAD_DIM), dtype=torch.uint8, device=device)
    keys = torch.zeros((4, HEAD_DIM), dtype=torch.uint8, device=device)
    scale = torch.ones(4, dtype=torch.float32, device=device)
    weights = torch.ones((1, num_heads), dtype=torch.float32, device=device)
    start = torch.zeros(1, dtype=torch.int32, device=device)
    end = torch.full((1,), 4, dtype=torch.int32, device=device)
    for width in (0, 4):
        fp8_mqa_logits(q, (keys, scale), weights, start, end, max_seqlen_k=width)
    indexer_topk(q, (keys, scale), weights, start, end, 2)
    for columns in (4, 2 * SMALLEST_PART):
        # One program for a short row, several for a long one.
        logits = torch.zeros((1, columns), dtype=torch.float32, device=device)
        for starts in (None, start):
            topk_indices(logits, starts, end, 2)
    cache = torch.zeros((1, page_size, 1, HEAD_DIM + 4), dtype=torch.uint8, device=device)
    table = torch.zeros((1, 1), dtype=torch.int32, device=device)
    for rows in next_n:
        query = q.expand(rows, -1, -1).unsqueeze(0).contiguous()
        heads = weights.expand(rows, -1).contiguous()
        lengths = torch.ones((1, rows), dtype=torch.int32, device=device)
        fp8_paged_mqa_logits(query, cache, heads, lengths, table, max_context_len=page_size)
