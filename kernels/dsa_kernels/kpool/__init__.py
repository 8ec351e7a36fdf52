"""Index keys that stand for a pool of tokens each (GLM-5.3-Flash): rotation, pooling, and the tail of open pools."""

from dsa_kernels.kpool.interface import hadamard_quantize_fp8, kpool_compress_and_cache, kpool_decode_update
from dsa_kernels.kpool.naive import (
    naive_hadamard_quantize_fp8,
    naive_kpool_compress_and_cache,
    naive_kpool_decode_update,
)
from dsa_kernels.kpool.variants import variants
from dsa_kernels.kpool.warmup import warmup_kpool

__all__ = [
    "hadamard_quantize_fp8",
    "kpool_compress_and_cache",
    "kpool_decode_update",
    "naive_hadamard_quantize_fp8",
    "naive_kpool_compress_and_cache",
    "naive_kpool_decode_update",
    "variants",
    "warmup_kpool",
]
