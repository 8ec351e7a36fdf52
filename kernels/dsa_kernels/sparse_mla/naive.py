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
    rows = indices[:, 0, :].to(torch.int64)  # [s_q, topk]
    valid = (rows >= 0) & (rows < kv.shape[0])
    if topk_length is not None:
        positions = torch.arange(rows.shape[1], device=rows.device)
        valid &= positions[None, :] < topk_length[:, None]

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
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `sparse_mla_with_kvcache` computes: the same arguments, results in fp64.

    Returns:
        out [s_q, h_q, d_v] and lse [s_q, h_q], fp64.
    """
    rows = kv_cache.reshape(-1, 1, kv_cache.shape[-1])
    if kv_format == "fp8_ds_mla":
        rows = dequantize_fp8_ds_mla(rows, q.dtype)
    out, _, lse = naive_sparse_mla_fwd(q, rows, indices, sm_scale, d_v, attn_sink, topk_length)
    return out, lse
