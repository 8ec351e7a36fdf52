"""Compiles every kernel of DeepSeek-V4.1's path before CUDA graphs are captured: nothing compiles while serving."""

from functools import cache
from typing import Any

import torch

from dsa_doctor.plugin import ops
from dsa_doctor.plugin.families.deepseek_v4_warmup import compile_query


def compile_kernels(vllm_config: Any, window_page: int, page: int, device: torch.device) -> None:
    """Compile what this server's shapes can reach; done once per process and shape.

    Args:
        vllm_config: the server's configuration.
        window_page: tokens of a page of the sliding window's cache.
        page: tokens of a page of the compressed rows and of the index keys.
        device: the worker's device.
    """
    if ops.uses_references(device.type):
        return
    model_config, parallel = vllm_config.model_config, vllm_config.parallel_config
    config = model_config.hf_config
    sources = getattr(config, "kv_source_layer_ids", None) or ()
    engram = bool(getattr(config, "engram_layer_ids", None))
    _compile(
        int(model_config.get_num_attention_heads(parallel)),
        int(config.o_groups) // int(parallel.tensor_parallel_size),
        int(config.index_n_heads),
        int(config.index_topk),
        tuple(sorted({int(config.compress_ratios[layer]) for layer in sources})),
        int(config.engram_head_dim) if engram else 0,
        window_page,
        page,
        1 + int(getattr(vllm_config, "num_speculative_tokens", 0) or 0),
        device,
    )


@cache
def _compile(
    heads: int,
    groups: int,
    index_heads: int,
    index_topk: int,
    ratios: tuple[int, ...],
    engram_width: int,
    window_page: int,
    page: int,
    next_n: int,
    device: torch.device,
) -> None:
    from dsa_kernels.compressor import warmup_compressor, warmup_index_keys
    from dsa_kernels.engram import warmup_engram
    from dsa_kernels.indexer import warmup_indexer
    from dsa_kernels.mhc import warmup_mhc
    from dsa_kernels.sparse_mla import warmup_sparse_mla, warmup_two_sources

    warmup_sparse_mla(heads, 512, torch.bfloat16, ("bf16",), window_page, device)
    warmup_two_sources(heads, [(window_page, page // ratio) for ratio in ratios], torch.bfloat16, device)
    warmup_compressor(heads, groups, groups=(), device=device)
    warmup_index_keys(ratios, device=device)
    for ratio in ratios:
        warmup_indexer(index_heads, index_topk, page_size=page // ratio, next_n=next_n, device=device)
    warmup_mhc(device)
    compile_query(index_heads, device)
    if engram_width:
        warmup_engram(engram_width, device=device)
