"""The public ops: attention of each query token over the rows that its indices select."""

from __future__ import annotations

import torch

from dsa_kernels.sparse_mla.arguments import check_extra, check_query_side, view_flat, view_paged
from dsa_kernels.sparse_mla.config import LATENT_DIM
from dsa_kernels.sparse_mla.launch import Source, launch
from dsa_kernels.sparse_mla.plan import plan_invariant, plan_launch
from dsa_kernels.targets import device_facts


def sparse_mla_fwd(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int = LATENT_DIM,
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    batch_invariant: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sparse MLA attention over a flat latent cache, for prefill and decode.

    For each token t and head h, with S the valid entries of indices[t, 0]:
    logit[j] = sm_scale * q[t, h] · kv[j], out[t, h] = Σ_{j in S} softmax(logit)[j] * kv[j, :d_v].

    Args:
        q: [s_q, h_q, d_qk] bf16 or fp16, d_qk 576 (512 latent + 64 rope) or 512; 1 to 128 heads; s_q may be 0. Any
            strides with a contiguous last dimension and rows on 16-byte boundaries (so everywhere below).
        kv: [s_kv, 1, d_qk], dtype of q. Row j starts at kv[j, 0], addressed in 64 bits.
        indices: [s_q, 1, topk] int32, topk of 1 or more. An entry that is negative, >= s_kv or at a position
            >= topk_length[t] counts for nothing; an entry that stands twice counts twice.
        sm_scale: scale of the logits.
        d_v: width of a value; 512.
        attn_sink: [h_q] fp32 or None. The output is multiplied by exp(lse) / (exp(lse) + exp(attn_sink)): -inf changes
            nothing, +inf gives zeros. It changes neither max_logits nor lse.
        topk_length: [s_q] int32 or None: only indices[t, 0, :topk_length[t]] is read; values outside [0, topk] are
            clamped to it.
        out: [s_q, h_q, d_v] in q's dtype, written and returned; allocated when None.
        batch_invariant: a token's results are the same bits whatever other tokens the call has and on however many
            multiprocessors it runs, for the same h_q, topk, cache format, capability and Triton. Otherwise selections
            are cut into as many parts as fill the device, and few tokens are rounded otherwise than many. Costs time
            where more parts would serve the batch, or fewer; and up to 64 MiB of scratch.

    Returns:
        out: [s_q, h_q, d_v], dtype of q. Logits and sums are fp32; softmax weights are rounded to q's dtype before
            they multiply the values.
        max_logits: [s_q, h_q] fp32, the largest logit (scaled).
        lse: [s_q, h_q] fp32, natural log of Σ exp(logit).
        A token with nothing valid gives out 0, max_logits -inf and lse -inf. NaN or inf in rows that are not selected
        have no effect; in selected rows they propagate. The same inputs give the same bits.

    Raises:
        ArgumentError: a wrong shape, dtype, stride, alignment or device; the message names the argument.

    Nothing waits for the device, and allocations depend on shapes alone: safe under CUDA graph capture once
    `warmup_sparse_mla` (or one call with the same dtypes, head count and geometry) has compiled the kernels.

    Source: `flash_mla_sparse_fwd` of FlashMLA (github.com/deepseek-ai/FlashMLA), whose suite expects lse +inf instead
    of -inf for tokens with nothing valid.
    """
    result = check_query_side(q, indices, d_v, attn_sink, topk_length, out)
    source = Source(view_flat(q, kv), indices, topk_length)
    max_logits, lse = _attend(q, source, None, sm_scale, attn_sink, result, batch_invariant)
    return result, max_logits, lse


def sparse_mla_with_kvcache(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int = LATENT_DIM,
    kv_format: str = "bf16",
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    extra_kv_cache: torch.Tensor | None = None,
    extra_indices: torch.Tensor | None = None,
    extra_topk_length: torch.Tensor | None = None,
    batch_invariant: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse MLA attention over a paged latent cache, or over two of them.

    As `sparse_mla_fwd`, with the rows in pages and, by choice, in fp8. With a second cache a token attends to what it
    selects from both, under one softmax and one sink: DeepSeek-V4's sliding window and its compressed rows.

    Args:
        q: as in `sparse_mla_fwd`.
        kv_cache: kv_format "bf16": [num_pages, page_size, 1, 576 or 512] in q's dtype (bf16 or fp16). "fp8_ds_mla":
            [num_pages, page_size, 1, 656] uint8, each token 512 e4m3 codes, 4 fp32 scales (one per 128 codes), 64 bf16
            rope values; d_qk is 576. Pages may lie apart in a larger allocation; rows of a page may too.
        indices: as in `sparse_mla_fwd`, with entry = page * page_size + offset; valid below num_pages * page_size.
        sm_scale: as in `sparse_mla_fwd`.
        d_v: as in `sparse_mla_fwd`.
        kv_format: "bf16" or "fp8_ds_mla".
        attn_sink: as in `sparse_mla_fwd`.
        topk_length: as in `sparse_mla_fwd`.
        out: as in `sparse_mla_fwd`.
        extra_kv_cache: [num_pages, page_size, 1, 512] in q's dtype or None: the second cache, with pages and strides of
            its own. Then kv_format is "bf16" and d_qk 512.
        extra_indices: [s_q, 1, extra_topk] int32, as indices, into extra_kv_cache; None without it.
        extra_topk_length: [s_q] int32 or None, as topk_length, of extra_indices.
        batch_invariant: as in `sparse_mla_fwd`; with a second cache neither width of the selections matters.

    Returns:
        out and lse as in `sparse_mla_fwd`, over what is selected from all caches. fp8 codes are decoded exactly,
        multiplied by their scale in fp32 and rounded once to q's dtype (so a product beyond 65,504 is inf for fp16);
        rope values are rounded to q's dtype.

    Raises:
        ArgumentError: as in `sparse_mla_fwd`, for a kv_format that is not known, and for a second cache that is
            incomplete or goes with neither format nor width.

    Source: `flash_mla_with_kvcache` of FlashMLA with `indices`, and its extra_k_cache, extra_indices_in_kvcache and
    extra_topk_length; lse as [s_q, h_q].
    """
    result = check_query_side(q, indices, d_v, attn_sink, topk_length, out)
    extra = check_extra(q, kv_format, extra_kv_cache, extra_indices, extra_topk_length)
    view = view_paged(q, kv_cache, kv_format, keep_pages=extra is not None)
    _, lse = _attend(q, Source(view, indices, topk_length), extra, sm_scale, attn_sink, result, batch_invariant)
    return result, lse


def _attend(
    q: torch.Tensor,
    source: Source,
    extra: Source | None,
    sm_scale: float,
    attn_sink: torch.Tensor | None,
    out: torch.Tensor,
    batch_invariant: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    capability, multiprocessors = device_facts(q.device)
    if batch_invariant:
        plan = plan_invariant(q.shape[1], source.width, extra is not None, source.cache.fp8, capability)
    else:
        width = source.width + (extra.width if extra else 0)
        plan = plan_launch(q.shape[0], q.shape[1], width, source.cache.fp8, capability, multiprocessors)
    return launch(q, source, extra, sm_scale, attn_sink, out, plan)
