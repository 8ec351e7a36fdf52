"""Compiles every kernel of the path before CUDA graphs are captured, so that nothing compiles while serving."""

from functools import cache
from typing import Any

import torch

from dsa_doctor.plugin import indices, ops

_TOKEN_PAGES = (64,)
"""Keys of a page of the indexer's cache where a key is one token: vLLM's indexer takes no other blocks."""
_POOL_PAGES = (16, 32, 64)
"""The same where a key is a pool: vLLM takes the largest that divides the block."""
_LEAST_POOLED_HEADS = 32
"""vLLM pads the heads of a pooled indexer up to these."""


def compile_kernels(vllm_config: Any, kv_cache_spec: Any, selection_width: int, device: torch.device) -> None:
    """Compile what this server's shapes can reach; done once per process and shape.

    Args:
        vllm_config: the server's configuration.
        kv_cache_spec: specification of the attention layer's cache.
        selection_width: columns of the indexer's buffer of selected tokens.
        device: the worker's device.
    """
    if ops.uses_references(device.type):
        return
    model_config = vllm_config.model_config
    text = model_config.hf_text_config
    page_size = int(kv_cache_spec.block_size)
    heads, pool = int(text.index_n_heads), int(getattr(text, "index_kpool", 1) or 1)
    _compile_attention(
        model_config.get_num_attention_heads(vllm_config.parallel_config),
        int(text.kv_lora_rank) + int(text.qk_rope_head_dim),
        model_config.dtype,
        "fp8_ds_mla" if vllm_config.cache_config.cache_dtype == "fp8_ds_mla" else "bf16",
        page_size,
        selection_width,
        -(-model_config.max_model_len // page_size),
        device,
    )
    _compile_indexer(
        heads if pool == 1 else max(heads, _LEAST_POOLED_HEADS),
        int(text.index_topk) // pool,
        pool,
        1 + int(getattr(vllm_config, "num_speculative_tokens", 0) or 0),
        device,
    )


@cache
def _compile_attention(
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    kv_format: str,
    page_size: int,
    selection_width: int,
    table_width: int,
    device: torch.device,
) -> None:
    from dsa_kernels.sparse_mla import warmup_sparse_mla

    warmup_sparse_mla(num_heads, head_dim, dtype, (kv_format,), page_size, device)
    tables = torch.zeros((1, table_width), dtype=torch.int32, device=device)
    positions = torch.full((1, selection_width), -1, dtype=torch.int32, device=device)
    indices.to_cache_rows(torch.zeros(1, dtype=torch.int32, device=device), tables, positions, page_size)


@cache
def _compile_indexer(heads: int, topk: int, pool: int, next_n: int, device: torch.device) -> None:
    from dsa_kernels.indexer import warmup_indexer
    from dsa_kernels.kpool import warmup_kpool

    for page_size in _TOKEN_PAGES if pool == 1 else _POOL_PAGES:
        warmup_indexer(heads, topk, page_size=page_size, next_n=next_n, device=device)
    if pool > 1:
        warmup_kpool(pool, device)
