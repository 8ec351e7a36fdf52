"""Bytes of one row of a KV cache, in each layout that vLLM stores."""

from typing import Literal

FP8_DS_MLA_ROW = 656
"""512 e4m3 latent values, 4 float32 scales and 64 bfloat16 rope values: vLLM's and FlashMLA's fp8_ds_mla layout.

A model without rope is stored in rows of the same width.
"""

_DS_MLA_BACKENDS = ("FLASHMLA_SPARSE", "TRITON_MLA_SPARSE", "FLASHINFER_MLA_SPARSE_SM120")
_DS_MLA_BY_DEFAULT = ("FLASHINFER_MLA_SPARSE_SM120",)
_DS_MLA_WIDTHS = (512, 576)
_INDEX_SCALE_GROUP = 128

KvLayout = Literal["two-byte rows", "656-byte fp8 rows", "one-byte rows"]


def kv_layout(kv_cache_dtype: str, backend: str) -> KvLayout:
    """Return the layout that vLLM stores for a --kv-cache-dtype under an attention backend.

    Sparse MLA backends turn "fp8" and "fp8_e4m3" into fp8_ds_mla; "auto" keeps the model's two-byte type, but on
    compute capability 12.x, whose backend has no other layout.
    """
    by_default = kv_cache_dtype == "auto" and backend in _DS_MLA_BY_DEFAULT
    asked = kv_cache_dtype.startswith("fp8") and backend in (*_DS_MLA_BACKENDS, "auto")
    if kv_cache_dtype == "fp8_ds_mla" or by_default or asked:
        return "656-byte fp8 rows"
    return "one-byte rows" if kv_cache_dtype.startswith("fp8") else "two-byte rows"


def row_bytes(width: int, layout: KvLayout) -> int:
    """Return the bytes of one MLA row of `width` values; every rank holds the whole row."""
    if layout == "656-byte fp8 rows" and width in _DS_MLA_WIDTHS:
        return FP8_DS_MLA_ROW
    return width * (2 if layout == "two-byte rows" else 1)


def index_row_bytes(width: int) -> int:
    """Return the bytes of one index key: e4m3 values and a float32 scale per 128 of them."""
    return width + 4 * (width // _INDEX_SCALE_GROUP)
