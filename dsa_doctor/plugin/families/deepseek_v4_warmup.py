"""Compiles every kernel of DeepSeek-V4's path before CUDA graphs are captured: nothing compiles while serving."""

from functools import cache
from typing import Any

import torch

from dsa_doctor.plugin import ops

_RATIOS = (4, 128)


def compile_kernels(vllm_config: Any, window_page: int, block: int, device: torch.device) -> None:
    """Compile what this server's shapes can reach; done once per process and shape.

    Args:
        vllm_config: the server's configuration. Its cache's block size is not asked: by now vLLM has put that of its
            smallest cache there, 4 tokens of the compressor's state.
        window_page: tokens of a page of the sliding window's cache.
        block: tokens of a block of the compressed caches.
        device: the worker's device.
    """
    if ops.uses_references(device.type):
        return
    model_config, parallel = vllm_config.model_config, vllm_config.parallel_config
    config = model_config.hf_config
    _compile(
        int(model_config.get_num_attention_heads(parallel)),
        int(config.o_groups) // int(parallel.tensor_parallel_size),
        int(config.index_n_heads),
        int(config.index_topk),
        window_page,
        block,
        1 + int(getattr(vllm_config, "num_speculative_tokens", 0) or 0),
        device,
    )


@cache
def _compile(
    heads: int,
    groups: int,
    index_heads: int,
    index_topk: int,
    window_page: int,
    block: int,
    next_n: int,
    device: torch.device,
) -> None:
    from dsa_kernels.compressor import warmup_compressor
    from dsa_kernels.indexer import warmup_indexer
    from dsa_kernels.mhc import warmup_mhc
    from dsa_kernels.sparse_mla import warmup_sparse_mla, warmup_two_sources

    warmup_sparse_mla(heads, 512, torch.bfloat16, ("bf16",), window_page, device)
    warmup_two_sources(heads, [(window_page, block // ratio) for ratio in _RATIOS], torch.bfloat16, device)
    warmup_compressor(heads, groups, device=device)
    warmup_indexer(index_heads, index_topk, page_size=block // _RATIOS[0], next_n=next_n, device=device)
    warmup_mhc(device)
    compile_query(index_heads, device)


def compile_query(index_heads: int, device: torch.device) -> None:
    """Compile the indexer's query: its end is rotated, of neighbouring values."""
    q = torch.zeros((1, index_heads, 128), dtype=torch.bfloat16, device=device)
    angles = torch.zeros((1, 64), dtype=torch.float32, device=device)
    weights = torch.zeros((1, index_heads), dtype=torch.bfloat16, device=device)
    positions = torch.zeros(1, dtype=torch.int64, device=device)
    ops.fused_indexer_q_rope_quant(positions, q, angles, weights, 1.0, 1.0, is_neox=False, rope_last=True)
