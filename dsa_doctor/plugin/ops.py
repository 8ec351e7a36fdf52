"""Which implementation serves: the Triton kernels, or their PyTorch references where that was chosen openly.

`DSA_DOCTOR_KERNELS=reference` chooses the references by name, `DSA_DOCTOR_KERNELS=triton` the kernels; unset, tensors
on a CPU take the references, since nothing else exists there. A GPU never falls back by itself.
"""

import os
from functools import cache
from typing import Any

import torch

from dsa_doctor.plugin.invariance import batch_invariant
from dsa_doctor.plugin.log import LOGGER

KERNELS_VARIABLE = "DSA_DOCTOR_KERNELS"


@cache
def uses_references(device_type: str) -> bool:
    """Whether tensors on this kind of device are served by the references; the choice is logged once.

    Raises:
        ValueError: DSA_DOCTOR_KERNELS holds neither "triton" nor "reference".
    """
    asked = os.environ.get(KERNELS_VARIABLE, "").strip().lower()
    if asked not in ("", "triton", "reference"):
        raise ValueError(f"{KERNELS_VARIABLE}={asked!r} is not known. Accepted: triton, reference.")
    if asked == "triton" or (not asked and device_type != "cpu"):
        return False
    why = f"{KERNELS_VARIABLE}=reference" if asked else "the device is a CPU"
    # Not only in the first process: the choice is made where the tensors are, in a worker.
    LOGGER.info("dsa-doctor: the PyTorch references serve sparse MLA and the indexer (%s); they are slow.", why)
    return True


def sparse_mla_with_kvcache(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    kv_format: str,
    topk_length: torch.Tensor | None,
) -> torch.Tensor:
    """Return the attention output [T, H, 512] in q's dtype; contract of dsa_kernels.sparse_mla_with_kvcache."""
    import dsa_kernels.sparse_mla as ops

    if uses_references(q.device.type):
        out, _ = ops.naive_sparse_mla_with_kvcache(
            q, kv_cache, indices, sm_scale, kv_format=kv_format, topk_length=topk_length
        )
        return out.to(q.dtype)
    out, _ = ops.sparse_mla_with_kvcache(
        q,
        kv_cache,
        indices,
        sm_scale,
        kv_format=kv_format,
        topk_length=topk_length,
        batch_invariant=batch_invariant(),
    )
    return out


def fused_indexer_q_rope_quant(
    positions: torch.Tensor,
    q: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    weights: torch.Tensor,
    softmax_scale: float,
    head_scale: float,
    is_neox: bool,
    rope_last: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return e4m3 codes [T, H, 128] and weights [T, H]; contract of dsa_kernels.fp8.fused_indexer_q_rope_quant."""
    import dsa_kernels.fp8 as ops

    serve = ops.naive_fused_indexer_q if uses_references(q.device.type) else ops.fused_indexer_q_rope_quant
    return serve(positions, q, cos_sin_cache, weights, softmax_scale, head_scale, is_neox, rope_last)


def fp8_mqa_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    *,
    max_seqlen_k: int,
) -> torch.Tensor:
    """Return uncleaned fp32 logits: [M, N], or [M, max_seqlen_k] with column 0 at `starts` where that is positive."""
    import dsa_kernels.indexer as ops

    if uses_references(q.device.type):
        return ops.naive_fp8_mqa_logits(q, kv, weights, starts, ends, max_seqlen_k, dtype=torch.float32)
    return ops.fp8_mqa_logits(q, kv, weights, starts, ends, clean_logits=False, max_seqlen_k=max_seqlen_k)


def fp8_paged_mqa_logits(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    max_context_len: int,
) -> torch.Tensor:
    """Return uncleaned fp32 logits [B * next_n, max_context_len]."""
    import dsa_kernels.indexer as ops

    if uses_references(q.device.type):
        return ops.naive_fp8_paged_mqa_logits(
            q, kv_cache, weights, context_lens, block_tables, max_context_len, dtype=torch.float32
        )
    return ops.fp8_paged_mqa_logits(
        q,
        kv_cache,
        weights,
        context_lens,
        block_tables,
        max_context_len=max_context_len,
        clean_logits=False,
        batch_invariant=batch_invariant(),
    )


def topk_indices(
    logits: torch.Tensor, row_starts: torch.Tensor | None, row_ends: torch.Tensor, k: int, out: torch.Tensor
) -> None:
    """Write the positions of the k largest logits of each row to `out`, padded with -1.

    Positions count from the row's start; None means column 0.
    """
    import dsa_kernels.indexer as ops

    if uses_references(logits.device.type):
        out.copy_(ops.naive_topk_indices(logits, row_starts, row_ends, k))
    else:
        ops.topk_indices(logits, row_starts, row_ends, k, out=out)


RowSource = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A cache [pages, page_size, 1, 512] bf16, its rows that each token attends to [T, 1, width] int32, and counts [T]."""


def window_and_selected_mla(
    q: torch.Tensor,
    window: RowSource,
    selected: RowSource | None,
    sm_scale: float,
    sink: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Write the attention over one or two sources to `out`; contract of dsa_kernels.sparse_mla_with_kvcache.

    Args:
        q: [T, H, 512] bf16.
        window: the sliding window.
        selected: the compressed rows; None where the layer has none.
        sm_scale: scale of the logits.
        sink: [H] fp32.
        out: [T, H, 512] bf16.
    """
    import dsa_kernels.sparse_mla as ops

    cache, rows, counts = window
    given: dict[str, Any] = {"attn_sink": sink, "topk_length": counts}
    if selected is not None:
        given |= dict(zip(("extra_kv_cache", "extra_indices", "extra_topk_length"), selected, strict=True))
    if uses_references(q.device.type):
        found, _ = ops.naive_sparse_mla_with_kvcache(q, cache, rows, sm_scale, **given)
        out.copy_(found)
    else:
        ops.sparse_mla_with_kvcache(q, cache, rows, sm_scale, out=out, batch_invariant=batch_invariant(), **given)


def compress_norm_rope_store(
    state_cache: torch.Tensor,
    token_to_request: torch.Tensor,
    positions: torch.Tensor,
    state_slots: torch.Tensor,
    block_table: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
    overlap: bool,
) -> None:
    """Compress groups of tokens into bf16 rows, or into index keys where the cache is of bytes.

    Contracts of dsa_kernels.compress_to_rows and dsa_kernels.compress_to_index_keys.
    """
    import dsa_kernels.compressor as ops

    keys = kv_cache.dtype is torch.uint8
    if uses_references(state_cache.device.type):
        serve: Any = ops.naive_compress_to_index_keys if keys else ops.naive_compress_to_rows
    else:
        serve = ops.compress_to_index_keys if keys else ops.compress_to_rows
    serve(
        state_cache=state_cache,
        token_to_request=token_to_request,
        positions=positions,
        state_slots=state_slots,
        block_table=block_table,
        norm_weight=norm_weight,
        eps=eps,
        cos_sin_cache=cos_sin_cache,
        kv_cache=kv_cache,
        slot_mapping=slot_mapping,
        ratio=ratio,
        overlap=overlap,
    )


def index_key_norm_rope_store(
    k: torch.Tensor,
    positions: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
) -> None:
    """Normalise, rotate, quantise and store index keys; contract of dsa_kernels.index_key_norm_rope_store."""
    import dsa_kernels.compressor as ops

    naive = uses_references(k.device.type)
    serve = ops.naive_index_key_norm_rope_store if naive else ops.index_key_norm_rope_store
    serve(k, positions, norm_weight, eps, cos_sin_cache, kv_cache, slot_mapping, ratio)


def engram_lookup(
    table: torch.Tensor,
    scales: torch.Tensor,
    ids: torch.Tensor,
    out: torch.Tensor,
    first_id: int,
    first_head: int,
    background: bool,
) -> None:
    """Write rows of an engram table in bf16 to `out`; contract of dsa_kernels.engram_lookup."""
    import dsa_kernels.engram as ops

    if uses_references(ids.device.type):
        ops.naive_engram_lookup(table, scales, ids, out, first_id, first_head)
    else:
        ops.engram_lookup(table, scales, ids, out, first_id, first_head, background)


def inverse_rope_grouped(
    o: torch.Tensor, positions: torch.Tensor, cos_sin_cache: torch.Tensor, num_groups: int
) -> torch.Tensor:
    """Return [G, T, H / G * 512], rotated back; contract of dsa_kernels.inverse_rope_grouped."""
    import dsa_kernels.compressor as ops

    serve = ops.naive_inverse_rope if uses_references(o.device.type) else ops.inverse_rope_grouped
    return serve(o, positions, cos_sin_cache, num_groups)


def hc_prenorm_gemm(
    x: torch.Tensor, fn: torch.Tensor, out: torch.Tensor, sqrsum: torch.Tensor, num_splits: int
) -> None:
    """Write x · fnᵀ and the sums of squares in `num_splits` parts; contract of dsa_kernels.hc_prenorm_gemm."""
    import dsa_kernels.mhc as ops

    if uses_references(x.device.type):
        product, squares = ops.naive_hc_prenorm(x, fn)
        out.zero_()[0].copy_(product)
        sqrsum.zero_()[0].copy_(squares)
    else:
        ops.hc_prenorm_gemm(x, fn, out, sqrsum, num_splits, batch_invariant())


def hadamard_quantize_fp8(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return e4m3 codes [R, 128] and scales [R, 1]; contract of dsa_kernels.kpool.hadamard_quantize_fp8."""
    import dsa_kernels.kpool as ops

    return ops.naive_hadamard_quantize_fp8(q) if uses_references(q.device.type) else ops.hadamard_quantize_fp8(q)


def kpool_compress_and_cache(
    kv_cache: torch.Tensor,
    key: torch.Tensor,
    gate: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    write_mask: torch.Tensor | None,
    scale_fmt: str,
) -> None:
    """Write one pooled key for each pool; contract of dsa_kernels.kpool.kpool_compress_and_cache."""
    import dsa_kernels.kpool as ops

    naive = uses_references(key.device.type)
    serve = ops.naive_kpool_compress_and_cache if naive else ops.kpool_compress_and_cache
    serve(kv_cache, key, gate, ape, slot_mapping, write_mask, scale_fmt)


def kpool_decode_update(
    kv_cache: torch.Tensor,
    tail_cache: torch.Tensor,
    tail_slot_mapping: torch.Tensor,
    key: torch.Tensor,
    gate: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    positions: torch.Tensor,
    scale_fmt: str,
) -> None:
    """Keep decoded tokens and pool where one completes; contract of dsa_kernels.kpool.kpool_decode_update."""
    import dsa_kernels.kpool as ops

    serve = ops.naive_kpool_decode_update if uses_references(key.device.type) else ops.kpool_decode_update
    serve(kv_cache, tail_cache, tail_slot_mapping, key, gate, ape, slot_mapping, positions, scale_fmt)
