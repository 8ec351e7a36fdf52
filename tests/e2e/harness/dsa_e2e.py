"""Loaded by vLLM's CPU build in every process of the end-to-end test: lets its server take the plugin's backend.

The platform below is vLLM's own CPU platform, except that it answers the sparse-MLA question with TRITON_MLA_SPARSE and
keeps pages of 64 tokens. `install` brings the plugin in as on a GPU of compute capability 8.x, and stands in for what
the CPU build lacks: three cache ops and one quantisation op that exist as CUDA code alone, and two Triton kernels of
vLLM's metadata builders. The plugin's own parts (backend, indexer stand-ins, patches) are used as they are.
"""

import itertools
import os
import sys

import torch


def platform() -> str:
    """Entry point of the group vllm.platform_plugins."""
    return "dsa_e2e_platform.DsaCpuPlatform"


def install() -> None:
    """Entry point of the group vllm.general_plugins; called in every process, possibly several times."""
    from vllm import _custom_ops
    from vllm.model_executor.layers import sparse_attn_indexer
    from vllm.model_executor.layers.rotary_embedding import RotaryEmbedding
    from vllm.v1.attention.backends.mla import indexer
    from vllm.v1.attention.ops import metadata
    from vllm.v1.worker import workspace

    from dsa_doctor.plugin import host, selection

    host.name_backend()
    selection.offer_model_classes()
    _custom_ops.indexer_k_quant_and_cache = indexer_k_quant_and_cache
    _custom_ops.concat_and_cache_mla = concat_and_cache_mla
    _custom_ops.cp_gather_indexer_k_quant_cache = cp_gather_indexer_k_quant_cache
    sparse_attn_indexer.SparseAttnIndexer.forward_cpu = sparse_attn_indexer.SparseAttnIndexer.forward_cuda
    # The CPU build's C++ rotary op gives other values than vLLM's own PyTorch method on the strided slices of MLA.
    RotaryEmbedding.forward_cpu = RotaryEmbedding.forward_native
    indexer._BUILD_PREFILL_CHUNK_METADATA_KERNEL = build_prefill_chunk_metadata
    metadata.compute_token_to_req_indices = compute_token_to_req_indices
    if not workspace.is_workspace_manager_initialized():
        workspace.init_workspace_manager(torch.device("cpu"))
    if "vllm.model_executor.models.deepseek_v2" not in sys.modules:
        import vllm.model_executor.models.deepseek_v2 as generic

        generic.per_token_group_quant_fp8 = per_token_group_quant_fp8
    if os.environ.get("DSA_E2E_WRONG_SELECTION"):
        _select_the_first_positions()


def _select_the_first_positions() -> None:
    """The negative control: another selection of the same size, so that the comparison must break."""
    from dsa_doctor.plugin import ops

    def first_positions(logits, row_starts, row_ends, k, out):
        positions = torch.arange(k, dtype=torch.int32).expand(logits.shape[0], k)
        starts = 0 if row_starts is None else row_starts.reshape(-1, 1)
        out.copy_(torch.where(positions < row_ends.reshape(-1, 1) - starts, positions, -1))

    ops.topk_indices = first_positions


def concat_and_cache_mla(
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    scale: torch.Tensor,
) -> None:
    """vLLM's CUDA op of this name for an unquantised cache: latent and rope part of each token into its slot."""
    assert kv_cache_dtype == "auto"
    used = slot_mapping >= 0
    rows = torch.cat((kv_c, k_pe.reshape(kv_c.shape[0], -1)), dim=-1)[: slot_mapping.shape[0]]
    slots = slot_mapping[used]
    kv_cache[slots // kv_cache.shape[1], slots % kv_cache.shape[1]] = rows[used].to(kv_cache.dtype)


def indexer_k_quant_and_cache(
    k: torch.Tensor, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, quant_block_size: int, kv_cache_dtype: str
) -> None:
    """vLLM's CUDA op of this name, by the reference in dsa_kernels."""
    from dsa_kernels.fp8 import naive_indexer_k_quant_and_cache

    assert quant_block_size == k.shape[-1] == 128
    assert kv_cache_dtype == "ue8m0"
    naive_indexer_k_quant_and_cache(k, kv_cache, slot_mapping)


def cp_gather_indexer_k_quant_cache(
    kv_cache: torch.Tensor,
    dst_k: torch.Tensor,
    dst_scale: torch.Tensor,
    block_table: torch.Tensor,
    cu_seq_lens: torch.Tensor,
) -> None:
    """vLLM's CUDA op of this name: the cached keys of each request, one after the other."""
    page_size = kv_cache.shape[1]
    pages = kv_cache.reshape(kv_cache.shape[0], -1)
    codes = pages[:, : page_size * 128].reshape(-1, 128)
    scales = pages[:, page_size * 128 :].reshape(-1, 4)
    bounds = cu_seq_lens.tolist()
    for request, (start, end) in enumerate(itertools.pairwise(bounds)):
        positions = torch.arange(end - start)
        slots = block_table[request].long()[positions // page_size] * page_size + positions % page_size
        dst_k.view(torch.uint8)[start:end] = codes[slots]
        dst_scale.view(torch.uint8)[start:end] = scales[slots]


def per_token_group_quant_fp8(x, group_size, **options):
    """vLLM's function of this name, whose CPU path needs a Triton driver."""
    from dsa_kernels.fp8 import naive_quantize_fp8

    assert options.get("use_ue8m0")
    return naive_quantize_fp8(x, group_size, floor=1e-10)


def build_prefill_chunk_metadata(
    query_start_loc: torch.Tensor,
    uncompressed_seq_lens: torch.Tensor,
    cu_compressed_seq_lens: torch.Tensor,
    row_start_cu_compressed_seq_lens: torch.Tensor,
    token_to_seq: torch.Tensor,
    cu_compressed_seq_len_ks: torch.Tensor,
    cu_compressed_seq_len_ke: torch.Tensor,
    query_slice_start: int,
    query_slice_stop: int,
    *_parallel: int,
    num_reqs: int,
    COMPRESS_RATIO: int,
) -> None:
    """vLLM's Triton kernel of this name, for one rank and uncompressed keys."""
    assert COMPRESS_RATIO == 1
    starts, ends = query_start_loc[:-1].tolist(), query_start_loc[1:].tolist()
    for request in range(num_reqs):
        first = int(row_start_cu_compressed_seq_lens[request])
        context = int(uncompressed_seq_lens[request]) - (ends[request] - starts[request])
        for row in range(max(starts[request], query_slice_start), min(ends[request], query_slice_stop)):
            cu_compressed_seq_len_ks[row - query_slice_start] = first
            cu_compressed_seq_len_ke[row - query_slice_start] = first + context + row - starts[request] + 1
        token_to_seq[int(cu_compressed_seq_lens[request]) : int(cu_compressed_seq_lens[request + 1])] = request


def compute_token_to_req_indices(
    query_start_loc: torch.Tensor, out: torch.Tensor, num_mapped_tokens: int, num_tokens: int
) -> torch.Tensor:
    """vLLM's function of this name, whose kernel is Triton."""
    lengths = torch.diff(query_start_loc).long()
    requests = torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths)[:num_mapped_tokens]
    out[:num_tokens] = 0
    out[: requests.shape[0]] = requests.to(out.dtype)
    return out[:num_tokens]
