"""Stands in for FlashMLA's package: its sparse calls, computed by our ops.

What differs, and is bridged here:
- A token with nothing valid: FlashMLA's lse is +inf, ours is -inf.
- Decoding: FlashMLA takes [batch, s_q, ...] with one topk_length per request and returns lse as [batch, heads, s_q];
  ours takes a line of tokens and returns [tokens, heads].
- The fp8 cache: FlashMLA's is typed float8_e4m3fn, ours uint8 (the same bytes).
- A schedule: ours needs none.
Dense attention, a second (extra) cache of fp8 rows and the 512-wide fp8 formats have no counterpart among our ops.
"""

from typing import Any

import routed
import torch
from routed import UnsupportedError

__all__ = ["flash_mla_sparse_fwd", "flash_mla_with_kvcache", "get_mla_metadata"]

FP8_TOKEN_BYTES = 656


def get_mla_metadata(*arguments: Any, **named: Any) -> tuple[None, None]:
    """No schedule: our ops plan from shapes alone."""
    del arguments, named
    return None, None


def flash_mla_sparse_fwd(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int = 512,
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prefill: q [s_q, h_q, d_qk], kv [s_kv, 1, d_qk], indices [s_q, 1, topk]; out, max_logits, lse."""
    lengths = {"attn_sink": attn_sink, "topk_length": topk_length}
    out, max_logits, lse = routed.sparse_mla_fwd(q, kv, indices, sm_scale, d_v, **lengths)
    return out, max_logits, _plus_infinity_where_nothing_is_valid(lse)


def flash_mla_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: torch.Tensor | None,
    cache_seqlens: torch.Tensor | None,
    head_dim_v: int,
    tile_scheduler_metadata: Any,
    num_splits: None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: torch.Tensor | None = None,
    attn_sink: torch.Tensor | None = None,
    extra_k_cache: torch.Tensor | None = None,
    extra_indices_in_kvcache: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
    extra_topk_length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse decoding: q [b, s_q, h_q, d_qk], indices [b, s_q, topk]; out [b, s_q, h_q, 512], lse [b, h_q, s_q].

    Raises:
        UnsupportedError: for what our ops do not compute.
    """
    del block_table, cache_seqlens, tile_scheduler_metadata, num_splits
    if indices is None or causal:
        raise UnsupportedError("dense decoding: no op of ours")
    if extra_k_cache is not None or extra_indices_in_kvcache is not None or extra_topk_length is not None:
        raise UnsupportedError("a second (extra) cache of fp8 rows: no op of ours")
    if is_fp8_kvcache and k_cache.shape[-1] != FP8_TOKEN_BYTES:
        raise UnsupportedError(f"an fp8 cache of {k_cache.shape[-1]} bytes a token: ours is {FP8_TOKEN_BYTES}")
    batch, s_q, heads, width = q.shape
    topk = indices.shape[-1]
    out, lse = routed.sparse_mla_with_kvcache(
        q.reshape(batch * s_q, heads, width),
        k_cache.view(torch.uint8) if is_fp8_kvcache else k_cache,
        indices.reshape(batch * s_q, 1, topk),
        width**-0.5 if softmax_scale is None else softmax_scale,
        head_dim_v,
        kv_format="fp8_ds_mla" if is_fp8_kvcache else "bf16",
        attn_sink=attn_sink,
        topk_length=None if topk_length is None else topk_length.repeat_interleave(s_q),
    )
    by_head = _plus_infinity_where_nothing_is_valid(lse).view(batch, s_q, heads).transpose(1, 2)
    return out.view(batch, s_q, heads, head_dim_v), by_head


def _plus_infinity_where_nothing_is_valid(lse: torch.Tensor) -> torch.Tensor:
    return lse.masked_fill(lse == float("-inf"), float("inf"))
