"""DeepSeek-V4's compressor (groups of tokens become rows and index keys), and the rope of its attention's output."""

from dsa_kernels.compressor.interface import (
    compress_to_index_keys,
    compress_to_rows,
    index_key_norm_rope_store,
    inverse_rope_grouped,
)
from dsa_kernels.compressor.naive import (
    naive_compress_to_index_keys,
    naive_compress_to_rows,
    naive_index_key_norm_rope_store,
    naive_inverse_rope,
)
from dsa_kernels.compressor.variants import variants
from dsa_kernels.compressor.warmup import warmup_compressor, warmup_index_keys

__all__ = [
    "compress_to_index_keys",
    "compress_to_rows",
    "index_key_norm_rope_store",
    "inverse_rope_grouped",
    "naive_compress_to_index_keys",
    "naive_compress_to_rows",
    "naive_index_key_norm_rope_store",
    "naive_inverse_rope",
    "variants",
    "warmup_compressor",
    "warmup_index_keys",
]
