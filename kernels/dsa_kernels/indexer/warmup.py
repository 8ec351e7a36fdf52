"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

import torch

from dsa_kernels.indexer.chunked import indexer_topk
from dsa_kernels.indexer.config import HEAD_DIM, SELECT_BLOCK, SHARED_LENGTH
from dsa_kernels.indexer.paged import fp8_paged_mqa_logits
from dsa_kernels.indexer.ragged import fp8_mqa_logits
from dsa_kernels.indexer.topk import topk_indices


def warmup_indexer(
    num_heads: int, topk: int = 2048, page_size: int = 64, next_n: int = 1, device: torch.device | str = "cuda"
) -> None:
    """Compile the kernels for one model on one device, so that nothing compiles during graph capture or serving.

    What specialises: the number of heads, next_n, the page size, full width or compressed, row starts given or not.
    What does not: rows, keys, contexts, k, strides, widths of tables, alignment of slices. Bounds are int32.

    Args:
        num_heads: heads of the indexer.
        topk: results of a row; nothing specialises on it.
        page_size: tokens of a page of the indexer's cache.
        next_n: most query rows of a request that decoding will meet; each number up to it is compiled.
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
    indexer_topk(q, (keys, scale), weights, start, end, topk)
    # A row that is selected from as it is, one that one program thins out, and one that many do.
    for columns in (4, SELECT_BLOCK + 1, SHARED_LENGTH + 1):
        logits = torch.zeros((1, columns), dtype=torch.float32, device=device)
        for starts in (None, start):
            topk_indices(logits, starts, end, topk)
    cache = torch.zeros((1, page_size, 1, HEAD_DIM + 4), dtype=torch.uint8, device=device)
    table = torch.zeros((1, 1), dtype=torch.int32, device=device)
    for rows in range(1, next_n + 1):
        query = q.expand(rows, -1, -1).unsqueeze(0).contiguous()
        heads = weights.expand(rows, -1).contiguous()
        lengths = torch.ones((1, rows), dtype=torch.int32, device=device)
        fp8_paged_mqa_logits(query, cache, heads, lengths, table, max_context_len=page_size)
