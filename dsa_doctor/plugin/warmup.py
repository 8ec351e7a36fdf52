"""Compiles every kernel of the path before CUDA graphs are captured, so that nothing compiles while serving."""

from functools import cache
from typing import Any

import torch

from dsa_doctor.plugin import indices, ops


def compile_kernels(vllm_config: Any, kv_cache_spec: Any, device: torch.device) -> None:
    """Compile what this server's shapes can reach; done once per process and shape.

    Args:
        vllm_config: the server's configuration.
        kv_cache_spec: specification of the attention layer's cache.
        device: the worker's device.
    """
    if ops.uses_references(device.type):
        return
    model_config = vllm_config.model_config
    text = model_config.hf_text_config
    page_size = int(kv_cache_spec.block_size)
    _compile(
        model_config.get_num_attention_heads(vllm_config.parallel_config),
        model_config.dtype,
        "fp8_ds_mla" if vllm_config.cache_config.cache_dtype == "fp8_ds_mla" else "bf16",
        page_size,
        int(text.index_n_heads),
        int(text.index_topk),
        -(-model_config.max_model_len // page_size),
        1 + int(getattr(vllm_config, "num_speculative_tokens", 0) or 0),
        device,
    )


@cache
def _compile(
    num_heads: int,
    dtype: torch.dtype,
    kv_format: str,
    page_size: int,
    index_heads: int,
    index_topk: int,
    table_width: int,
    next_n: int,
    device: torch.device,
) -> None:
    from dsa_kernels.indexer import warmup_indexer
    from dsa_kernels.sparse_mla import warmup_sparse_mla

    warmup_sparse_mla(num_heads, 576, dtype, (kv_format,), page_size, device)
    warmup_indexer(index_heads, index_topk, page_size=page_size, next_n=next_n, device=device)
    tables = torch.zeros((1, table_width), dtype=torch.int32, device=device)
    positions = torch.full((1, index_topk), -1, dtype=torch.int32, device=device)
    indices.to_cache_rows(torch.zeros(1, dtype=torch.int32, device=device), tables, positions, page_size)
