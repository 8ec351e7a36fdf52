"""Compile, before serving, every kernel that a serving shape can reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dsa_kernels.sparse_mla.arguments import view_paged
from dsa_kernels.sparse_mla.config import FP8_TOKEN_BYTES, LATENT_DIM
from dsa_kernels.sparse_mla.launch import CacheView, Source, launch
from dsa_kernels.sparse_mla.plan import plan_launch
from dsa_kernels.targets import device_facts


def warmup_sparse_mla(
    num_heads: int,
    head_dim: int = 576,
    dtype: torch.dtype = torch.bfloat16,
    kv_formats: Sequence[str] = ("bf16",),
    page_size: int = 64,
    device: torch.device | str = "cuda",
) -> None:
    """Compile the kernels for one model on one device, so that nothing compiles during graph capture or serving.

    What specialises: the dtype of q, the head dimension, the head count's class (up to 16, or more), the cache
    format, and the page size where pages lie apart in memory. What does not: number of tokens, top-k, cache size,
    strides, alignment of indices, presence of a sink or of lengths, whether the selection is split.

    Args:
        num_heads: query heads of this rank.
        head_dim: 576 or 512.
        dtype: dtype of q.
        kv_formats: formats to be met: "bf16", "fp8_ds_mla".
        page_size: rows of a page of the cache.
        device: where to compile.
    """
    for kv_format in kv_formats:
        fp8 = kv_format == "fp8_ds_mla"
        width, row_dtype = (FP8_TOKEN_BYTES, torch.uint8) if fp8 else (head_dim, dtype)
        pages = torch.zeros((4, page_size, 1, width), dtype=row_dtype, device=device)
        for cache in (pages, pages[::2]):
            q = torch.zeros((1, num_heads, head_dim), dtype=dtype, device=device)
            _compile(q, view_paged(q, cache, kv_format), None)


def warmup_two_sources(
    num_heads: int,
    page_sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
) -> None:
    """Compile `sparse_mla_with_kvcache` with an extra_kv_cache for one model on one device; see `warmup_sparse_mla`.

    What specialises: the dtype of q, the head count's class, and the page sizes of both caches. Strides do not.

    Args:
        num_heads: query heads of this rank.
        page_sizes: rows of a page of kv_cache and of extra_kv_cache, each pair that is to be met: DeepSeek-V4 has
            (64, 64) in layers of ratio 4 and (64, 2) in layers of ratio 128.
        dtype: dtype of q.
        device: where to compile.
    """
    q = torch.zeros((1, num_heads, LATENT_DIM), dtype=dtype, device=device)
    for pair in page_sizes:
        pages = (torch.zeros((1, page_size, 1, LATENT_DIM), dtype=dtype, device=device) for page_size in pair)
        first, second = (view_paged(q, cache, "bf16", keep_pages=True) for cache in pages)
        _compile(q, first, second)


def _compile(q: torch.Tensor, cache: CacheView, extra: CacheView | None) -> None:
    """Launch what one token of `q` reaches, with nothing selected."""
    indices = torch.full((1, 1, 256), -1, dtype=torch.int32, device=q.device)
    out = torch.empty((1, q.shape[1], LATENT_DIM), dtype=q.dtype, device=q.device)
    plan = plan_launch(1, q.shape[1], indices.shape[2], cache.fp8, *device_facts(q.device))
    # Split whatever this GPU would do with one token: the merge is to be compiled too.
    plan = replace(plan, num_splits=2)
    launch(q, Source(cache, indices, None), Source(extra, indices, None) if extra else None, 1.0, None, out, plan)
