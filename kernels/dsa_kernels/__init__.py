"""Triton kernels for DeepSeek Sparse Attention on compute capability 8.0 and up, each beside a naive reference."""

from dsa_kernels.errors import ArgumentError
from dsa_kernels.sparse_mla import (
    dequantize_fp8_ds_mla,
    naive_sparse_mla_fwd,
    naive_sparse_mla_with_kvcache,
    sparse_mla_fwd,
    sparse_mla_with_kvcache,
    warmup_sparse_mla,
)

__all__ = [
    "ArgumentError",
    "dequantize_fp8_ds_mla",
    "naive_sparse_mla_fwd",
    "naive_sparse_mla_with_kvcache",
    "sparse_mla_fwd",
    "sparse_mla_with_kvcache",
    "warmup_sparse_mla",
]
