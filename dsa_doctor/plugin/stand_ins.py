"""The functions that stand in for what vLLM's sparse indexer calls, each with the signature of what it replaces.

vLLM keeps orchestrating: chunking, workspaces, the K cache and the index buffer are its own. Only the logits, the
selection, the fused query path and the packing of ragged decode batches are served here.
"""

from typing import Any

import torch

from dsa_doctor.plugin import ops, query


def always() -> bool:
    """Answer the indexer's guard: its logits are served, by other kernels than DeepGEMM's."""
    return True


def never() -> bool:
    """Answer the metadata builder: no DeepGEMM schedule is needed."""
    return False


def no_warmup(*_arguments: Any, **_keywords: Any) -> None:
    """Register nothing: the Triton kernel that packs an fp8 query is not used."""


def fused_indexer_q_rope_quant(
    positions: torch.Tensor,
    q: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    weights: torch.Tensor,
    softmax_scale: float,
    head_scale: float,
    is_neox: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Serve vLLM's function of the same name: rope, e4m3 and the weights of the indexer's query in one kernel."""
    call: Any = getattr(torch.ops.dsa_doctor, query.NAME)
    codes, scaled = call(positions, q, cos_sin_cache, weights, softmax_scale, head_scale, is_neox)
    return codes, scaled


def full_mqa_logits(
    q: tuple[torch.Tensor, torch.Tensor | None],
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cu_seqlen_ks: torch.Tensor,
    cu_seqlen_ke: torch.Tensor,
    clean_logits: bool,
) -> torch.Tensor:
    """Serve vLLM's fp8_fp4_mqa_logits that returns full-width logits [M, N]: column j is K position j."""
    del clean_logits  # whoever reads the logits stays within [ks, ke)
    return ops.fp8_mqa_logits(_fp8_query(q), kv, weights, cu_seqlen_ks, cu_seqlen_ke, max_seqlen_k=0)


def compressed_mqa_logits(
    q: tuple[torch.Tensor, torch.Tensor | None],
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cu_seqlen_ks: torch.Tensor,
    cu_seqlen_ke: torch.Tensor,
    max_seqlen_k: int,
) -> torch.Tensor:
    """Serve vLLM's fp8_fp4_mqa_logits that returns compressed logits [M, max_seqlen_k]: column 0 is position ks."""
    return ops.fp8_mqa_logits(_fp8_query(q), kv, weights, cu_seqlen_ks, cu_seqlen_ke, max_seqlen_k=max_seqlen_k)


def paged_mqa_logits(
    q: tuple[torch.Tensor, torch.Tensor | None],
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    schedule_metadata: torch.Tensor,
    max_model_len: int,
    clean_logits: bool = False,
    indices: torch.Tensor | None = None,
) -> torch.Tensor:
    """Serve vLLM's fp8_fp4_paged_mqa_logits: [B * next_n, max_model_len], logits of the paged K cache.

    The schedule is DeepGEMM's and is not read. A padded batch brings fewer rows of weights than padded rows; the rows
    beyond belong to no token and get zeros.

    Raises:
        NotImplementedError: `indices` came, which only variable-length decoding on compute capability 10.x uses.
    """
    del schedule_metadata, clean_logits
    if indices is not None:
        raise NotImplementedError("dsa-doctor's paged logits take no row indices; vLLM passes them on 10.x alone")
    query = _fp8_query(q)
    rows = query.shape[0] * query.shape[1]
    if weights.shape[0] < rows:
        weights = torch.nn.functional.pad(weights, (0, 0, 0, rows - weights.shape[0]))
    tables = block_tables[: query.shape[0]]
    return ops.fp8_paged_mqa_logits(query, kv_cache, weights, context_lens, tables, max_model_len)


def _fp8_query(q: tuple[torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
    values, scale = q
    if scale is not None:
        raise NotImplementedError(
            "dsa-doctor's indexer takes an fp8 query whose scale is folded into the weights; a query with scales of "
            "its own came (fp4 or MX cache). Serve with the default fp8 indexer cache."
        )
    return values


def top_k_per_row_prefill(
    logits: torch.Tensor,
    cu_seqlen_ks: torch.Tensor,
    cu_seqlen_ke: torch.Tensor,
    raw_topk_indices: torch.Tensor,
    num_rows: int,
    stride0: int,
    stride1: int,
    topk_tokens: int,
) -> None:
    """Serve vLLM's op of the same name: exact top-k of logits[i, ks[i]:ke[i]], positions relative to ks[i]."""
    del num_rows, stride0, stride1  # the tensors carry them
    ops.topk_indices(logits, cu_seqlen_ks, cu_seqlen_ke, topk_tokens, out=raw_topk_indices)


def top_k_per_row_decode(
    logits: torch.Tensor,
    next_n: int,
    seq_lens: torch.Tensor,
    raw_topk_indices: torch.Tensor,
    num_rows: int,
    stride0: int,
    stride1: int,
    topk_tokens: int,
) -> None:
    """Serve vLLM's op of the same name: exact top-k of each draft token's row up to its context length."""
    del num_rows, stride0, stride1
    ends = row_ends(seq_lens, next_n, logits.shape[0])
    ops.topk_indices(logits, None, ends, topk_tokens, out=raw_topk_indices)


def decode_topk(
    logits: torch.Tensor,
    lengths: torch.Tensor,
    output: torch.Tensor,
    workspace: torch.Tensor,
    k: int,
    max_seq_len: int,
) -> None:
    """Serve torch.ops._C.persistent_topk and cooperative_topk, whose own kernels can select wrong tokens."""
    del workspace, max_seq_len
    next_n = logits.shape[0] // max(lengths.shape[0], 1)
    ends = row_ends(lengths, next_n, logits.shape[0])
    ops.topk_indices(logits, None, ends, k, out=output)


def row_ends(seq_lens: torch.Tensor, next_n: int, num_rows: int) -> torch.Tensor:
    """Return each row's exclusive end [num_rows] int32.

    Args:
        seq_lens: one length per row (any shape of num_rows elements), or one per request: then row j of a request ends
            at its length - next_n + 1 + j.
        next_n: rows per request.
        num_rows: rows in all.
    """
    if seq_lens.numel() == num_rows:
        return seq_lens.reshape(-1)
    offsets = torch.arange(1 - next_n, 1, dtype=torch.int32, device=seq_lens.device)
    return (seq_lens.reshape(-1, 1) + offsets).clamp_min_(0).reshape(-1)


def pack_sequences(
    x: torch.Tensor, lengths: torch.Tensor, pad_value: float = 0, block_t: int = 64, block_d: int = 64
) -> torch.Tensor:
    """Serve pack_seq_triton: rows of ragged sequences to [B, Lmax, ...], padded with zeros. Compiles nothing.

    fp8 rows move as bytes. vLLM's own padding of -inf is NaN in e4m3; padded rows are masked by their lengths anyway.

    Args:
        x: [N, ...], the sequences one after the other.
        lengths: [B], how many rows each has.
        pad_value: taken for compatibility; padding is always zero.
        block_t: not used.
        block_d: not used.
    """
    del pad_value, block_t, block_d
    raw = x.view(torch.uint8) if x.dtype.itemsize == 1 else x
    total, longest = int(lengths.sum().item()), int(lengths.max().item())
    row, column = _ragged_positions(lengths, total)
    packed = raw.new_zeros((lengths.shape[0], longest, *raw.shape[1:]))
    packed[row, column] = raw[:total]
    return packed.view(x.dtype)


def unpack_sequences(
    packed_tensor: torch.Tensor, lengths: torch.Tensor, block_t: int = 64, block_d: int = 64
) -> torch.Tensor:
    """Serve unpack_seq_triton: the inverse of `pack_sequences`, [B, Lmax, ...] to [N, ...]. Compiles nothing."""
    del block_t, block_d
    row, column = _ragged_positions(lengths, int(lengths.sum().item()))
    unpacked: torch.Tensor = packed_tensor[row, column]
    return unpacked


def _ragged_positions(lengths: torch.Tensor, total: int) -> tuple[Any, Any]:
    """Return (sequence, position within it) of each of `total` rows, [total] each."""
    counts = lengths.to(torch.int64)
    row = torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), counts, output_size=total)
    first = torch.cumsum(counts, 0) - counts
    return row, torch.arange(total, device=counts.device) - first[row]
