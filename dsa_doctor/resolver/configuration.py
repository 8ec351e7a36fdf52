"""The configuration that a verdict implies."""

from dsa_doctor.resolver.judgement import Judgement
from dsa_doctor.resolver.own_attention import own_choice
from dsa_doctor.resolver.request import TRITON_BACKEND
from dsa_doctor.verdict.schema import Configuration, Layer

PLUGIN_BLOCK_SIZE = 64
"""Tokens per KV page: what the paged indexer cache is laid out for."""

_ATTENTION_FALLBACKS = {"sparse MLA": "dsa_kernels.sparse_mla_with_kvcache"}
_V4_FALLBACKS = {
    "attention": "dsa_kernels.sparse_mla_with_kvcache over two caches",
    "compressor": "dsa_kernels.compress_to_rows, dsa_kernels.compress_to_index_keys",
    "output rope": "dsa_kernels.inverse_rope_grouped",
    "mHC product": "dsa_kernels.hc_prenorm_gemm",
}
_V41_FALLBACKS = {name: served for name, served in _V4_FALLBACKS.items() if name != "compressor"} | {
    "engram": "dsa_kernels.engram_lookup",
}
_INDEXER_FALLBACKS = {
    "indexer logits": "dsa_kernels.fp8_mqa_logits, dsa_kernels.fp8_paged_mqa_logits",
    "indexer top-k": "dsa_kernels.topk_indices",
    "indexer query": "dsa_kernels.fused_indexer_q_rope_quant",
}
_V41_INDEXER_FALLBACKS = _INDEXER_FALLBACKS | {"index keys": "dsa_kernels.index_key_norm_rope_store"}
_POOLED_FALLBACKS = {
    "indexer query": "dsa_kernels.hadamard_quantize_fp8",
    "pooled index keys": "dsa_kernels.kpool_compress_and_cache, dsa_kernels.kpool_decode_update",
}


def configuration(case: Judgement, layers: tuple[Layer, ...]) -> Configuration | None:
    """Return what to launch with, or None where a layer is not resolved."""
    states = {layer.layer: layer.state for layer in layers}
    if {"unresolved", "unknown"} & set(states.values()):
        return None
    attention, indexer = states["attention"] == "plugin", states["indexer"] == "plugin"
    own = case.family is not None and case.family.picker is not None
    answer = None if own else case.answer
    chosen = own_choice(case) if own else answer.chosen if answer is not None else None
    # vLLM sizes a block for all caches of a model together, which one backend's preference does not tell: left to it,
    # but for our own backend. A block of a hybrid model holds a state of its linear layers too.
    sized_here = attention and not own and case.model.linear_attention is None
    v41 = case.model.family == "deepseek_v41"
    fallbacks = _V41_FALLBACKS if v41 else _V4_FALLBACKS if own else _ATTENTION_FALLBACKS
    indexing = _V41_INDEXER_FALLBACKS if v41 else _INDEXER_FALLBACKS
    indexing = indexing | (_POOLED_FALLBACKS if case.model.index_kpool > 1 else {})
    return Configuration(
        attention_backend=TRITON_BACKEND if attention else chosen or "auto",
        kv_cache_dtype=plugin_kv_cache_dtype(case) if attention else case.request.kv_cache_dtype,
        block_size=case.request.block_size or (PLUGIN_BLOCK_SIZE if sized_here else None),
        uses_plugin=attention or indexer,
        fallbacks=(fallbacks if attention else {}) | (indexing if indexer else {}),
    )


def plugin_kv_cache_dtype(case: Judgement) -> str:
    """Return the KV cache dtype that the plugin serves: bfloat16 where the checkpoint's metadata alone asks for fp8."""
    if case.request.kv_cache_dtype == "auto" and case.model.kv_cache_quantization:
        return "bfloat16"
    return case.request.kv_cache_dtype
