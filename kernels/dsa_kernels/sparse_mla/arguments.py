"""Argument checks of the sparse MLA ops, and the caches as the kernels address them."""

from __future__ import annotations

import torch

from dsa_kernels.errors import (
    ArgumentError,
    expect,
    expect_aligned_rows,
    expect_contiguous_last,
    expect_same_device,
    expect_tensor,
)
from dsa_kernels.sparse_mla.config import FP8_TOKEN_BYTES, LATENT_DIM
from dsa_kernels.sparse_mla.launch import CacheView, Source

#: Widths of q and of a bf16/fp16 row: latent plus rope, or latent alone.
ROW_DIMS = (576, 512)
MAX_HEADS = 128
KV_FORMATS = ("bf16", "fp8_ds_mla")
_HALF_DTYPES = (torch.bfloat16, torch.float16)
_INT32_LIMIT = 2**31


def check_query_side(
    q: torch.Tensor,
    indices: torch.Tensor,
    d_v: int,
    attn_sink: torch.Tensor | None,
    topk_length: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """Check everything but the cache, and return the output tensor (allocated when `out` is None)."""
    expect_tensor("q", q, ("s_q", "h_q", "d_qk"), _HALF_DTYPES)
    tokens, heads, width = q.shape
    expect(1 <= heads <= MAX_HEADS, "q", f"{heads} heads", f"1 to {MAX_HEADS} heads")
    expect(width in ROW_DIMS, "q", f"head dimension {width}", " or ".join(map(str, ROW_DIMS)))
    expect_contiguous_last("q", q)
    expect_aligned_rows("q", q)
    expect(d_v == LATENT_DIM, "d_v", d_v, LATENT_DIM)
    _check_selection(q, indices, topk_length)
    if attn_sink is not None:
        expect_tensor("attn_sink", attn_sink, (heads,), (torch.float32,))
        expect_contiguous_last("attn_sink", attn_sink)
    expect_same_device("q", q, attn_sink=attn_sink, out=out)
    if out is None:
        return torch.empty((tokens, heads, d_v), dtype=q.dtype, device=q.device)
    expect_tensor("out", out, (tokens, heads, d_v), (q.dtype,))
    expect_contiguous_last("out", out)
    expect_aligned_rows("out", out)
    return out


def _check_selection(
    q: torch.Tensor, indices: torch.Tensor, topk_length: torch.Tensor | None, prefix: str = ""
) -> None:
    tokens = q.shape[0]
    name, length_name = f"{prefix}indices", f"{prefix}topk_length"
    expect_tensor(name, indices, (tokens, 1, "topk"), (torch.int32,))
    expect(indices.shape[2] >= 1, name, "topk 0", "topk of 1 or more")
    expect_contiguous_last(name, indices)
    if topk_length is not None:
        expect_tensor(length_name, topk_length, (tokens,), (torch.int32,))
        expect_contiguous_last(length_name, topk_length)
    expect_same_device("q", q, **{name: indices, length_name: topk_length})


def check_extra(
    q: torch.Tensor,
    kv_format: str,
    extra_kv_cache: torch.Tensor | None,
    extra_indices: torch.Tensor | None,
    extra_topk_length: torch.Tensor | None,
) -> Source | None:
    """Check the second source, and return it; None where there is none."""
    if extra_kv_cache is None:
        for name, value in (("extra_indices", extra_indices), ("extra_topk_length", extra_topk_length)):
            expect(value is None, name, "a tensor without extra_kv_cache", "None, or extra_kv_cache too")
        return None
    expect(kv_format == "bf16", "kv_format", repr(kv_format), "'bf16' with extra_kv_cache")
    width = q.shape[2]
    expect(width == LATENT_DIM, "q", f"head dimension {width}", f"{LATENT_DIM} with extra_kv_cache")
    if extra_indices is None:
        raise ArgumentError("extra_indices", "None with extra_kv_cache", "a selection from extra_kv_cache")
    _check_selection(q, extra_indices, extra_topk_length, "extra_")
    view = view_paged(q, extra_kv_cache, kv_format, name="extra_kv_cache", keep_pages=True)
    return Source(view, extra_indices, extra_topk_length)


def view_flat(q: torch.Tensor, kv: torch.Tensor) -> CacheView:
    """Check kv [s_kv, 1, d_qk] and view it."""
    expect_tensor("kv", kv, ("s_kv", 1, q.shape[2]), (q.dtype,))
    expect_contiguous_last("kv", kv)
    expect_aligned_rows("kv", kv)
    expect_same_device("q", q, kv=kv)
    expect(kv.shape[0] < _INT32_LIMIT, "kv", f"{kv.shape[0]} rows", "fewer than 2^31 rows (indices are int32)")
    row_stride = kv.stride(0) * kv.element_size()
    return _plain_view(kv, kv.shape[2], kv.shape[0], 0, 0, row_stride)


def view_paged(
    q: torch.Tensor, kv_cache: torch.Tensor, kv_format: str, name: str = "kv_cache", keep_pages: bool = False
) -> CacheView:
    """Check kv_cache [num_pages, page_size, 1, width] and view it.

    Args:
        q: the queries.
        kv_cache: the pages.
        kv_format: one of KV_FORMATS.
        name: of the argument, in messages.
        keep_pages: whether the view has pages where one row follows another across them, too.
    """
    expect(kv_format in KV_FORMATS, "kv_format", repr(kv_format), " or ".join(map(repr, KV_FORMATS)))
    fp8 = kv_format == "fp8_ds_mla"
    if fp8:
        expect_tensor(name, kv_cache, ("num_pages", "page_size", 1, FP8_TOKEN_BYTES), (torch.uint8,))
        if q.shape[2] != 576:
            raise ArgumentError("q", f"head dimension {q.shape[2]}", "576, the width of an fp8_ds_mla token")
    else:
        expect_tensor(name, kv_cache, ("num_pages", "page_size", 1, q.shape[2]), (q.dtype,))
    expect_contiguous_last(name, kv_cache)
    expect_aligned_rows(name, kv_cache)
    expect_same_device("q", q, **{name: kv_cache})
    pages, page_size = kv_cache.shape[0], kv_cache.shape[1]
    rows = pages * page_size
    expect(rows < _INT32_LIMIT, name, f"{rows} rows", "fewer than 2^31 rows (indices are int32)")
    row_stride = kv_cache.stride(1) * kv_cache.element_size()
    page_stride = kv_cache.stride(0) * kv_cache.element_size()
    if page_size == 1:
        row_stride = page_stride
    if keep_pages:
        page_size = max(1, page_size)
    elif pages <= 1 or page_stride == page_size * row_stride:
        page_size = page_stride = 0
    if not fp8:
        return _plain_view(kv_cache, kv_cache.shape[3], rows, page_size, page_stride, row_stride)
    return CacheView(
        latent=kv_cache[..., :512].view(torch.int32),
        scales=kv_cache[..., 512:528].view(torch.float32),
        rope=kv_cache[..., 528:].view(torch.bfloat16),
        rope_dim=64,
        fp8=True,
        num_rows=rows,
        page_size=page_size,
        page_stride=page_stride,
        row_stride=row_stride,
    )


def _plain_view(
    rows: torch.Tensor, width: int, num_rows: int, page_size: int, page_stride: int, row_stride: int
) -> CacheView:
    rope_dim = width - LATENT_DIM
    return CacheView(
        latent=rows,
        scales=rows,
        rope=rows[..., LATENT_DIM:] if rope_dim else rows,
        rope_dim=rope_dim,
        fp8=False,
        num_rows=num_rows,
        page_size=page_size,
        page_stride=page_stride,
        row_stride=row_stride,
    )
