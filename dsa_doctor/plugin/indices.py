"""From the indexer's request-local token positions to rows of the paged cache."""

import torch

from dsa_doctor.plugin import ops


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
        rows [T, topk] int32, the valid ones first and -1 after them, and counts [T] int32.
    """
    if not ops.uses_references(positions.device.type):
        from vllm.v1.attention.backends.mla.sparse_utils import triton_convert_req_index_to_global_index

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
