"""Bytes of one token in the KV cache."""

from typing import Literal

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.parallel import Parallel, pipeline_layers
from dsa_doctor.planner.weights import has_indexer

FP8_DS_MLA_ROW = 656
"""512 e4m3 latent values, 4 float32 scales and 64 bfloat16 rope values: vLLM's and FlashMLA's fp8_ds_mla layout."""

_DS_MLA_BACKENDS = ("FLASHMLA_SPARSE", "TRITON_MLA_SPARSE", "FLASHINFER_MLA_SPARSE_SM120")
_INDEXER_SCALE_GROUP = 128

KvLayout = Literal["two-byte rows", "656-byte fp8 rows", "one-byte rows"]


def kv_layout(kv_cache_dtype: str, backend: str) -> KvLayout:
    """Return the layout that vLLM stores for a --kv-cache-dtype under an attention backend.

    Sparse MLA backends turn "fp8" and "fp8_e4m3" into fp8_ds_mla; "auto" keeps the model's two-byte type.
    """
    if kv_cache_dtype == "fp8_ds_mla" or (kv_cache_dtype.startswith("fp8") and backend in (*_DS_MLA_BACKENDS, "auto")):
        return "656-byte fp8 rows"
    return "one-byte rows" if kv_cache_dtype.startswith("fp8") else "two-byte rows"


def row_bytes(model: ModelGeometry, layout: KvLayout) -> int:
    """Return the bytes of one token in one layer's KV cache, on each rank; MLA's single row is not split."""
    if layout == "656-byte fp8 rows" and model.head_size == 576:
        return FP8_DS_MLA_ROW
    return model.head_size * (2 if layout == "two-byte rows" else 1)


def indexer_row_bytes(model: ModelGeometry) -> int:
    """Return the bytes of one token in one indexer cache: e4m3 values and a float32 scale per 128 of them."""
    return model.index_head_dim + 4 * (model.index_head_dim // _INDEXER_SCALE_GROUP)


def token_bytes(
    model: ModelGeometry, parallel: Parallel, stage: int, *, kv_cache_dtype: str, backend: str, mtp: bool
) -> tuple[int, int]:
    """Return the bytes of one token on one GPU of a stage: (KV rows, indexer rows)."""
    layers = list(pipeline_layers(model.num_hidden_layers, parallel.pipeline)[stage])
    if mtp and stage == parallel.pipeline - 1:
        layers += range(model.num_hidden_layers, model.num_hidden_layers + model.num_nextn_predict_layers)
    if not model.kv_lora_rank:
        width = model.head_dim or model.hidden_size // model.num_attention_heads
        heads = -(-(model.num_key_value_heads or model.num_attention_heads) // parallel.tensor)
        return len(layers) * 2 * heads * width * (1 if kv_cache_dtype.startswith("fp8") else 2), 0
    full = sum(1 for layer in layers if has_indexer(model, layer))
    rows = len(layers) * row_bytes(model, kv_layout(kv_cache_dtype, backend))
    return rows, full * indexer_row_bytes(model)
