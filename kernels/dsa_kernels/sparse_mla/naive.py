"""Reference of the sparse MLA ops: plain PyTorch in fp64, one definition after the other. The truth, not fast."""

from __future__ import annotations

import torch

from dsa_kernels.sparse_mla.config import FP8_TOKEN_BYTES, LATENT_DIM


def naive_sparse_mla_fwd(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int = LATENT_DIM,
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `sparse_mla_fwd` computes, without rounding its output: the same arguments, results in fp64.

    Returns:
        out [s_q, h_q, d_v], max_logits [s_q, h_q], lse [s_q, h_q], all fp64.
    """
    rows = _valid_rows(indices, topk_length, kv.shape[0])[:, 0]  # [s_q, topk]
    valid = rows >= 0

    selected = torch.zeros((*rows.shape, kv.shape[2]), dtype=torch.float64, device=kv.device)  # [s_q, topk, d_qk]
    selected[valid] = kv[rows[valid], 0, :].to(torch.float64)
    logits = torch.einsum("qhd,qkd->qhk", q.to(torch.float64), selected) * sm_scale
    logits = logits.masked_fill(~valid[:, None, :], float("-inf"))  # [s_q, h_q, topk]

    max_logits = logits.amax(dim=-1)
    lse = torch.logsumexp(logits, dim=-1)
    total = lse if attn_sink is None else torch.logaddexp(lse, attn_sink.to(torch.float64)[None, :])
    weights = torch.exp(logits - total.masked_fill(total == float("-inf"), float("inf"))[..., None])
    # An unselected row has no part in the sum, not even as zero times infinity.
    out = torch.einsum("qhk,qkd->qhd", weights, selected[..., :d_v])
    return out, max_logits, lse


def _valid_rows(indices: torch.Tensor, topk_length: torch.Tensor | None, num_rows: int) -> torch.Tensor:
    """Indices [s_q, 1, topk] as int64, -1 in place of what counts for nothing."""
    valid = (indices >= 0) & (indices < num_rows)
    if topk_length is not None:
        positions = torch.arange(indices.shape[2], device=indices.device)
        valid &= positions < topk_length[:, None, None]
    return torch.where(valid, indices.long(), -1)


def dequantize_fp8_ds_mla(cache: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Expand fp8_ds_mla tokens to rows of 576.

    Args:
        cache: [..., 656] uint8: 512 e4m3 codes, 4 fp32 scales (one per 128 codes), 64 bf16 rope values.
        dtype: dtype of the rows: each code times its scale in fp32 and the rope values are rounded to it once.

    Returns:
        [..., 576] in `dtype`.
    """
    tokens = cache.contiguous()
    assert tokens.shape[-1] == FP8_TOKEN_BYTES
    codes = tokens[..., :512].contiguous().view(torch.float8_e4m3fn).to(torch.float32)
    scales = tokens[..., 512:528].contiguous().view(torch.float32)
    rope = tokens[..., 528:].contiguous().view(torch.bfloat16)
    latent = codes.unflatten(-1, (4, 128)) * scales[..., None]
    return torch.cat([latent.flatten(-2).to(dtype), rope.to(dtype)], dim=-1)


def naive_sparse_mla_with_kvcache(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int = LATENT_DIM,
    kv_format: str = "bf16",
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
    extra_kv_cache: torch.Tensor | None = None,
    extra_indices: torch.Tensor | None = None,
    extra_topk_length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `sparse_mla_with_kvcache` computes: the same arguments, results in fp64; two caches as one behind the other.

    Returns:
        out [s_q, h_q, d_v] and lse [s_q, h_q], fp64.
    """
    rows = kv_cache.reshape(-1, 1, kv_cache.shape[-1])
    if kv_format == "fp8_ds_mla":
        rows = dequantize_fp8_ds_mla(rows, q.dtype)
    if extra_kv_cache is not None and extra_indices is not None:
        extra = extra_kv_cache.reshape(-1, 1, extra_kv_cache.shape[-1])
        first = _valid_rows(indices, topk_length, rows.shape[0])
        second = _valid_rows(extra_indices, extra_topk_length, extra.shape[0])
        # Behind the rows of the first cache; -1 stays.
        second = torch.where(second >= 0, second + rows.shape[0], second)
        rows, indices, topk_length = torch.cat((rows, extra)), torch.cat((first, second), dim=2), None
    out, _, lse = naive_sparse_mla_fwd(q, rows, indices, sm_scale, d_v, attn_sink, topk_length)
    return out, lse
