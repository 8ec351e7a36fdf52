"""Which implementation serves: the Triton kernels, or their PyTorch references where that was chosen openly.

`DSA_DOCTOR_KERNELS=reference` chooses the references by name, `DSA_DOCTOR_KERNELS=triton` the kernels; unset, tensors
on a CPU take the references, since nothing else exists there. A GPU never falls back by itself.
"""

import os
from functools import cache

import torch

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
    out, _ = ops.sparse_mla_with_kvcache(q, kv_cache, indices, sm_scale, kv_format=kv_format, topk_length=topk_length)
    return out


def fused_indexer_q_rope_quant(
    positions: torch.Tensor,
    q: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    weights: torch.Tensor,
    softmax_scale: float,
    head_scale: float,
    is_neox: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return e4m3 codes [T, H, 128] and weights [T, H]; contract of dsa_kernels.fp8.fused_indexer_q_rope_quant."""
    import dsa_kernels.fp8 as ops

    if uses_references(q.device.type):
        return ops.naive_fused_indexer_q(positions, q, cos_sin_cache, weights, softmax_scale, head_scale, is_neox)
    return ops.fused_indexer_q_rope_quant(positions, q, cos_sin_cache, weights, softmax_scale, head_scale, is_neox)


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
        q, kv_cache, weights, context_lens, block_tables, max_context_len=max_context_len, clean_logits=False
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
