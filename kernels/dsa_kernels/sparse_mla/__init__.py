"""Sparse MLA attention: the public ops, their references, the warm-up and the variants for ahead-of-time checks."""

from dsa_kernels.sparse_mla.interface import sparse_mla_fwd, sparse_mla_with_kvcache
from dsa_kernels.sparse_mla.naive import dequantize_fp8_ds_mla, naive_sparse_mla_fwd, naive_sparse_mla_with_kvcache
from dsa_kernels.sparse_mla.variants import variants
from dsa_kernels.sparse_mla.warmup import warmup_sparse_mla, warmup_two_sources

__all__ = [
    "dequantize_fp8_ds_mla",
    "naive_sparse_mla_fwd",
    "naive_sparse_mla_with_kvcache",
    "sparse_mla_fwd",
    "sparse_mla_with_kvcache",
    "variants",
    "warmup_sparse_mla",
    "warmup_two_sources",
]
