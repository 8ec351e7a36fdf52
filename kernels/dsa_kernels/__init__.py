"""Triton kernels for DeepSeek Sparse Attention on compute capability 8.0 and up, each beside a naive reference."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa_kernels.compressor import (
        compress_to_index_keys,
        compress_to_rows,
        index_key_norm_rope_store,
        inverse_rope_grouped,
        naive_compress_to_index_keys,
        naive_compress_to_rows,
        naive_index_key_norm_rope_store,
        naive_inverse_rope,
        warmup_compressor,
        warmup_index_keys,
    )
    from dsa_kernels.engram import engram_lookup, naive_engram_lookup, warmup_engram
    from dsa_kernels.errors import ArgumentError
    from dsa_kernels.fp8 import (
        decode_e4m3_tensor,
        encode_e4m3_tensor,
        fused_indexer_q_rope_quant,
        indexer_k_quant_and_cache,
        naive_encode_e4m3,
        naive_fused_indexer_q,
        naive_indexer_k_quant_and_cache,
        naive_quantize_fp8,
        naive_read_indexer_cache,
        quantize_fp8_ue8m0,
    )
    from dsa_kernels.indexer import (
        fp8_mqa_logits,
        fp8_paged_mqa_logits,
        indexer_topk,
        naive_fp8_mqa_logits,
        naive_fp8_paged_mqa_logits,
        naive_topk_indices,
        row_lengths,
        topk_indices,
        warmup_indexer,
    )
    from dsa_kernels.kpool import (
        hadamard_quantize_fp8,
        kpool_compress_and_cache,
        kpool_decode_update,
        naive_hadamard_quantize_fp8,
        naive_kpool_compress_and_cache,
        naive_kpool_decode_update,
        warmup_kpool,
    )
    from dsa_kernels.mhc import hc_prenorm_gemm, hc_prenorm_splits, naive_hc_prenorm, warmup_mhc
    from dsa_kernels.sparse_mla import (
        dequantize_fp8_ds_mla,
        naive_sparse_mla_fwd,
        naive_sparse_mla_with_kvcache,
        sparse_mla_fwd,
        sparse_mla_with_kvcache,
        warmup_sparse_mla,
        warmup_two_sources,
    )

__all__ = [
    "ArgumentError",
    "compress_to_index_keys",
    "compress_to_rows",
    "decode_e4m3_tensor",
    "dequantize_fp8_ds_mla",
    "encode_e4m3_tensor",
    "engram_lookup",
    "fp8_mqa_logits",
    "fp8_paged_mqa_logits",
    "fused_indexer_q_rope_quant",
    "hadamard_quantize_fp8",
    "hc_prenorm_gemm",
    "hc_prenorm_splits",
    "index_key_norm_rope_store",
    "indexer_k_quant_and_cache",
    "indexer_topk",
    "inverse_rope_grouped",
    "kpool_compress_and_cache",
    "kpool_decode_update",
    "naive_compress_to_index_keys",
    "naive_compress_to_rows",
    "naive_encode_e4m3",
    "naive_engram_lookup",
    "naive_fp8_mqa_logits",
    "naive_fp8_paged_mqa_logits",
    "naive_fused_indexer_q",
    "naive_hadamard_quantize_fp8",
    "naive_hc_prenorm",
    "naive_index_key_norm_rope_store",
    "naive_indexer_k_quant_and_cache",
    "naive_inverse_rope",
    "naive_kpool_compress_and_cache",
    "naive_kpool_decode_update",
    "naive_quantize_fp8",
    "naive_read_indexer_cache",
    "naive_sparse_mla_fwd",
    "naive_sparse_mla_with_kvcache",
    "naive_topk_indices",
    "quantize_fp8_ue8m0",
    "row_lengths",
    "sparse_mla_fwd",
    "sparse_mla_with_kvcache",
    "topk_indices",
    "warmup_compressor",
    "warmup_engram",
    "warmup_index_keys",
    "warmup_indexer",
    "warmup_kpool",
    "warmup_mhc",
    "warmup_sparse_mla",
    "warmup_two_sources",
]

__version__ = "0.1.0"

if os.environ.get("DSA_KERNELS_EMULATE"):
    # Before any kernel is compiled, in whatever process of a server or a test run that is.
    import_module(f"{__name__}.emulation").emulate(os.environ["DSA_KERNELS_EMULATE"])

_HOMES = ("errors", "fp8", "sparse_mla", "indexer", "mhc", "engram", "kpool", "compressor")
"""Modules that hold the public names; what imports least comes first, since a name is looked for in this order."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `dsa_kernels.targets` must answer where torch is missing."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
