"""float8 e4m3 as plain bytes: Triton below sm89 refuses the type itself, even for an unused pointer."""

from dsa_kernels.fp8.interface import (
    decode_e4m3_tensor,
    encode_e4m3_tensor,
    fused_indexer_q_rope_quant,
    indexer_k_quant_and_cache,
    quantize_fp8_ue8m0,
)
from dsa_kernels.fp8.naive import (
    naive_encode_e4m3,
    naive_fused_indexer_q,
    naive_indexer_k_quant_and_cache,
    naive_quantize_fp8,
    naive_read_indexer_cache,
)
from dsa_kernels.fp8.variants import variants

__all__ = [
    "decode_e4m3_tensor",
    "encode_e4m3_tensor",
    "fused_indexer_q_rope_quant",
    "indexer_k_quant_and_cache",
    "naive_encode_e4m3",
    "naive_fused_indexer_q",
    "naive_indexer_k_quant_and_cache",
    "naive_quantize_fp8",
    "naive_read_indexer_cache",
    "quantize_fp8_ue8m0",
    "variants",
]
