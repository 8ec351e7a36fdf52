"""From the indexer's request-local token positions to rows of the paged cache."""

import torch

from dsa_doctor.plugin import ops
from dsa_doctor.plugin.invariance import batch_invariant


def to_cache_rows(
    request_ids: torch.Tensor, block_table: torch.Tensor, positions: torch.Tensor, page_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cache rows (page * page_size + offset) and how many of each row of indices are valid.

    Args:
        request_ids: [T] int32, row of the block table of each token.
        block_table: [B, max_pages] int32.
        positions: [T, topk] int32 token positions within the request; negative where nothing was selected.
        page_size: tokens per page.

    Returns:
        rows [T, topk] int32, -1 where nothing is valid, and counts [T] int32: none is valid behind so many. The valid
        ones stand first; where batch invariance is asked for, each stays where its position stands.
    """
    if not ops.uses_references(positions.device.type):
        from vllm.v1.attention.backends.mla.sparse_utils import triton_convert_req_index_to_global_index

        if batch_invariant():
            # Some releases move the valid ones to the front in whatever order programs finish, and order rounds sums.
            rows = triton_convert_req_index_to_global_index(
                request_ids, block_table, positions, BLOCK_SIZE=page_size, NUM_TOPK_TOKENS=positions.shape[1]
            )
            places = torch.arange(1, rows.shape[1] + 1, dtype=torch.int32, device=rows.device)
            return rows, torch.where(rows >= 0, places, 0).amax(dim=1)
        rows, counts = triton_convert_req_index_to_global_index(
            request_ids,
            block_table,
            positions,
            BLOCK_SIZE=page_size,
            NUM_TOPK_TOKENS=positions.shape[1],
            return_valid_counts=True,
        )
        return rows, counts
    page = positions.clamp_min(0) // page_size
    valid = (positions >= 0) & (page < block_table.shape[1])
    tables = block_table[request_ids.long()]  # [T, max_pages]
    pages = tables.gather(1, torch.where(valid, page, 0).long())
    rows = torch.where(valid, pages * page_size + positions % page_size, -1).to(torch.int32)
    # Valid rows first, as vLLM's kernel leaves them: a count says nothing of a selection with holes.
    front = torch.argsort(~valid, dim=1, stable=True)
    return rows.gather(1, front), valid.sum(dim=1, dtype=torch.int32)


def compressed_rows(
    positions: torch.Tensor,
    requests: torch.Tensor,
    block_table: torch.Tensor,
    page_size: int,
    valid: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `to_cache_rows` for positions among a request's compressed rows, the valid ones first already.

    Args:
        positions: [T, topk] int32; negative after the last one that was selected.
        requests: [T] int32, row of the block table of each token.
        block_table: [B, max_pages] int32.
        page_size: compressed rows of a page.
        valid: [T] bool; a token that is padding of a graph gets count 0.

    Returns:
        rows [T, topk] int32 and counts [T] int32.
    """
    if not ops.uses_references(positions.device.type):
        from vllm.models.deepseek_v4.common.ops import compute_global_topk_indices_and_lens

        rows, counts = compute_global_topk_indices_and_lens(positions, requests, block_table, page_size, valid)
        return rows, counts
    rows, counts = to_cache_rows(requests, block_table, positions, page_size)
    return rows, torch.where(valid, counts, 0)


def all_rows(requests: torch.Tensor, block_table: torch.Tensor, page_size: int, out: torch.Tensor) -> torch.Tensor:
    """Write the first rows of each token's request, in order; how many of them are the token's is said elsewhere.

    Args:
        requests: [T] int32, row of the block table of each token.
        block_table: [B, max_pages] int32.
        page_size: rows of a page.
        out: [T, width] int32, any row stride; returned.
    """
    width = out.shape[1]
    pages = block_table[:, : -(-width // page_size)]
    offsets = torch.arange(page_size, dtype=torch.int32, device=pages.device)
    rows = (pages.unsqueeze(2) * page_size + offsets).flatten(1)  # [B, pages * page_size]
    reached = min(width, rows.shape[1])  # a table that ends earlier holds all that a request may have
    torch.index_select(rows[:, :reached], 0, requests, out=out[:, :reached])
    out[:, reached:].fill_(-1)
    return out
