"""The ops that the stand-in packages call: our kernels, or our references when DSA_SUITE_OPS is "naive"."""

import os
from typing import Any

import torch

import dsa_kernels

OPS = ("kernels", "naive")
NAIVE = os.environ.get("DSA_SUITE_OPS", "kernels") == "naive"


class UnsupportedError(NotImplementedError):
    """A call for something that none of our ops computes; the message says what."""


def sparse_mla_fwd(q: torch.Tensor, *arguments: Any, **named: Any) -> tuple[torch.Tensor, ...]:
    """`dsa_kernels.sparse_mla_fwd`, or its reference in the same dtypes."""
    if not NAIVE:
        return dsa_kernels.sparse_mla_fwd(q, *arguments, **named)
    out, max_logits, lse = dsa_kernels.naive_sparse_mla_fwd(q, *arguments, **named)
    return out.to(q.dtype), max_logits.float(), lse.float()


def sparse_mla_with_kvcache(q: torch.Tensor, *arguments: Any, **named: Any) -> tuple[torch.Tensor, ...]:
    """`dsa_kernels.sparse_mla_with_kvcache`, or its reference in the same dtypes."""
    if not NAIVE:
        return dsa_kernels.sparse_mla_with_kvcache(q, *arguments, **named)
    out, lse = dsa_kernels.naive_sparse_mla_with_kvcache(q, *arguments, **named)
    return out.to(q.dtype), lse.float()


def fp8_mqa_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    clean_logits: bool,
    max_seqlen_k: int,
) -> torch.Tensor:
    """`dsa_kernels.fp8_mqa_logits`, or its reference in fp32 (which always cleans)."""
    if NAIVE:
        return dsa_kernels.naive_fp8_mqa_logits(q, kv, weights, starts, ends, max_seqlen_k, torch.float32)
    return dsa_kernels.fp8_mqa_logits(q, kv, weights, starts, ends, clean_logits, max_seqlen_k)


def fp8_paged_mqa_logits(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    max_context_len: int,
    clean_logits: bool,
) -> torch.Tensor:
    """`dsa_kernels.fp8_paged_mqa_logits`, or its reference in fp32 (which always cleans)."""
    arguments = (q, kv_cache, weights, context_lens, block_tables)
    if NAIVE:
        return dsa_kernels.naive_fp8_paged_mqa_logits(*arguments, max_context_len, torch.float32)
    return dsa_kernels.fp8_paged_mqa_logits(*arguments, None, max_context_len, clean_logits)
