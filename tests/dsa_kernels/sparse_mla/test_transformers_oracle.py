"""Attention over two caches against the attention of transformers' DeepSeek-V4, whose masks are dense."""

from types import SimpleNamespace

import pytest
import torch

from dsa_kernels.sparse_mla import sparse_mla_with_kvcache
from tests.dsa_kernels.sparse_mla.cases import LIMITS, assert_rows_close

modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")

TOKENS, WINDOW, RATIO, HEADS = 40, 9, 4, 8


def in_pages(rows: torch.Tensor, page_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, 512] in shuffled pages that lie apart, NaN around, and the index of each row there."""
    pages = -(-rows.shape[0] // page_size)
    order = torch.randperm(pages, generator=torch.Generator().manual_seed(seed))
    at = torch.arange(rows.shape[0])
    index = order[at // page_size] * page_size + at % page_size
    cache = torch.full((2 * pages, page_size, 1, 512), float("nan"), dtype=rows.dtype)[::2]
    cache[index // page_size, index % page_size, 0] = rows
    return cache, index.int()


def test_window_compressed_rows_and_sink(device):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(TOKENS, HEADS, 512, generator=generator).bfloat16()
    window = torch.randn(TOKENS, 512, generator=generator).bfloat16()
    compressed = torch.randn(TOKENS // RATIO, 512, generator=generator).bfloat16()
    sink = torch.linspace(-2, 4, HEADS)

    position = torch.arange(TOKENS)[:, None]
    seen = (position >= torch.arange(TOKENS)) & (position - torch.arange(TOKENS) < WINDOW)
    past = torch.arange(TOKENS // RATIO) < (position + 1) // RATIO
    mask = torch.where(torch.cat((seen, past), dim=1), 0.0, float("-inf"))[None, None].double()
    rows = torch.cat((window, compressed)).double()[None, None]
    module = SimpleNamespace(num_key_value_groups=HEADS, sinks=sink.double(), training=False)
    wanted, _ = modeling.eager_attention_forward(
        module, q.transpose(0, 1)[None].double(), rows, rows, mask, scaling=512**-0.5
    )

    cache, index = in_pages(window, 16, seed=1)
    extra_cache, extra_index = in_pages(compressed, 2, seed=2)
    indices = torch.full((TOKENS, 1, WINDOW), -1, dtype=torch.int32)
    for token in range(TOKENS):
        first = max(0, token + 1 - WINDOW)
        indices[token, 0, : token + 1 - first] = index[first : token + 1]
    out, _ = sparse_mla_with_kvcache(
        q.to(device),
        cache.to(device),
        indices.to(device),
        512**-0.5,
        attn_sink=sink.to(device),
        extra_kv_cache=extra_cache.to(device),
        extra_indices=extra_index.expand(TOKENS, 1, -1).contiguous().to(device),
        extra_topk_length=((position[:, 0] + 1) // RATIO).int().to(device),
    )
    assert_rows_close("out", out, wanted[0], 2 * LIMITS[torch.bfloat16])
