"""The configuration that a verdict implies."""

from dsa_doctor.resolver.judgement import Judgement
from dsa_doctor.resolver.request import TRITON_BACKEND
from dsa_doctor.verdict.schema import Configuration, Layer

PLUGIN_BLOCK_SIZE = 64
"""Tokens per KV page: what the paged indexer cache is laid out for."""


def configuration(case: Judgement, layers: tuple[Layer, ...]) -> Configuration | None:
    """Return what to launch with, or None where a layer is not resolved."""
    if any(layer.state in {"unresolved", "unknown"} for layer in layers):
        return None
    states = {layer.layer: layer.state for layer in layers}
    if states["attention"] != "plugin" and states["indexer"] != "plugin":
        chosen = case.answer.chosen if case.answer is not None else None
        return Configuration(
            attention_backend=chosen or "auto",
            kv_cache_dtype=case.request.kv_cache_dtype,
            block_size=case.request.block_size,
            fallbacks={},
        )
    return Configuration(
        attention_backend=TRITON_BACKEND,
        kv_cache_dtype=plugin_kv_cache_dtype(case),
        block_size=case.request.block_size or PLUGIN_BLOCK_SIZE,
        uses_plugin=True,
        fallbacks={
            "sparse MLA": "dsa_kernels.sparse_mla_with_kvcache",
            "indexer logits": "dsa_kernels.fp8_mqa_logits, dsa_kernels.fp8_paged_mqa_logits",
            "indexer top-k": "dsa_kernels.topk_indices",
            "indexer query": "vLLM's unfused rotary embedding and per-token fp8 quantisation",
        },
    )


def plugin_kv_cache_dtype(case: Judgement) -> str:
    """Return the KV cache dtype that the plugin serves: bfloat16 where the checkpoint's metadata alone asks for fp8."""
    if case.request.kv_cache_dtype == "auto" and case.model.kv_cache_quantization:
        return "bfloat16"
    return case.request.kv_cache_dtype
