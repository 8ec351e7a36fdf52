"""DeepSeek-V4.1: compressed caches shared between layers, n-gram tables in host memory, no learned stream head.

Names and sharding: vLLM's models/deepseek_v41 (nvidia/model.py, attention.py, compressor.py, common/engram.py); bytes
compared part by part with the published checkpoint, which is met to the byte. Only layers of `kv_source_layer_ids` own
a compressed cache, its compressor and index keys; only those of `index_source_layer_ids` have an indexer.
"""

from collections.abc import Iterator

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.hybrid import Compression, Engram
from dsa_doctor.planner.families import deepseek_v4
from dsa_doctor.planner.families.base import Cache, CacheOptions, Family, Weight, norm, pipeline_layers
from dsa_doctor.planner.families.deepseek_v4 import is_packed, padded, row_layout
from dsa_doctor.planner.families.glm5_next import hyper_connection_weights
from dsa_doctor.planner.rows import index_row_bytes

_PACKED_BLOCK = 64
_PLAIN_BLOCK = 128
_WINDOW_BLOCK = 32
_RING = 8
"""Least rows of a compressor's ring: drafts, one token and the row before it, rounded up to a power of two."""


def layer_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield the weights of one decoder layer; draft layers have the window alone."""
    compression, hidden, width = _compression(model), model.hidden_size, model.head_dim
    is_draft = layer >= model.num_hidden_layers
    yield from deepseek_v4.attention_weights(model, compression)
    owns = not is_draft and _owns(compression, layer)
    if owns:
        prefix = "attn.compressor."
        yield Weight(f"{prefix}wkv.weight", "compressor", (width, hidden), "replicated", "plain")
        if compression.ratios[layer] > 1:
            yield Weight(f"{prefix}wgate.weight", "compressor", (width, hidden), "replicated", "plain")
        yield norm(f"{prefix}norm.weight", width)
    if not is_draft and layer in (compression.index_sources or ()):
        prefix = "attn.indexer."
        queries = (model.index_n_heads * model.index_head_dim, model.q_lora_rank)
        yield Weight(f"{prefix}wq_b.weight", "indexer", queries, "replicated", "linear")
        yield Weight(f"{prefix}weights_proj.weight", "indexer", (model.index_n_heads, hidden), "replicated", "plain")
        if owns:
            yield Weight(f"{prefix}wk.weight", "indexer", (model.index_head_dim, width), "replicated", "plain")
            yield norm(f"{prefix}k_norm.weight", model.index_head_dim)
    yield from deepseek_v4.feed_forward_weights(model, layer)
    yield norm("attn_norm.weight", hidden)
    yield norm("ffn_norm.weight", hidden)
    yield from hyper_connection_weights(model)
    if model.engram is not None and layer in model.engram.layers:
        yield from _engram_weights(model, model.engram, layer)


def head_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield the final norm and the output head."""
    yield norm("norm.weight", model.hidden_size)
    yield Weight("head.weight", "output head", (model.vocab_size, model.hidden_size), "vocabulary", "plain")


def caches(model: ModelGeometry, layer: int, options: CacheOptions) -> Iterator[Cache]:
    """Yield the caches of one layer; layers that read another's compressed cache own the window's alone."""
    compression = _compression(model)
    row, alignment = row_layout(model, options)
    yield Cache("window", _WINDOW_BLOCK, padded(_WINDOW_BLOCK * row, alignment), window=compression.window)
    if layer >= model.num_hidden_layers or not _owns(compression, layer):
        return
    ratio, block = compression.ratios[layer], _PACKED_BLOCK if is_packed(options) else _PLAIN_BLOCK
    yield Cache("rows", block, padded(block // ratio * row, alignment))
    if layer in (compression.index_sources or ()):
        yield Cache("index", block, padded(block // ratio * index_row_bytes(model.index_head_dim), alignment))
    if ratio > 1:
        ring = max(_RING, 1 << (options.drafts + 1).bit_length())
        yield Cache("ring", ring, ring * 2 * model.head_dim * 4)


def problems(model: ModelGeometry, tensor: int, pipeline: int) -> Iterator[str]:
    """Yield why vLLM would refuse these sizes."""
    yield from deepseek_v4.problems(model, tensor, pipeline)
    compression = _compression(model)
    if 1 < pipeline <= model.num_hidden_layers:
        for layers in pipeline_layers(model.num_hidden_layers, pipeline):
            reads = [layer for layer in layers if compression.ratios[layer] > 0]
            if reads and max(one for one in compression.kv_sources or () if one <= reads[0]) not in layers:
                yield (
                    f"--pipeline-parallel-size {pipeline} parts layer {reads[0]} from the layer whose compressed cache "
                    "it reads, which vLLM refuses"
                )
    if model.engram is not None:
        columns = model.engram.columns
        part = -(-columns // tensor)
        if (tensor - 1) * part >= columns:
            yield f"--tensor-parallel-size {tensor} leaves ranks without a part of {columns} engram columns"


def _owns(compression: Compression, layer: int) -> bool:
    return compression.ratios[layer] > 0 and layer in (compression.kv_sources or ())


def _engram_weights(model: ModelGeometry, engram: Engram, layer: int) -> Iterator[Weight]:
    rows, hidden, streams = engram.rows[engram.layers.index(layer)], model.hidden_size, model.hyper_connections
    yield Weight("engram.embed.weight", "engram", (rows, engram.head_dim), "host", "table")
    values = (hidden * (streams + 1), engram.columns * engram.head_dim)
    yield Weight("engram.wkv.weight", "engram", values, "tensor", "linear")
    for name in ("q_weight", "k_weight"):
        yield Weight(f"engram.{name}", "engram", (streams, hidden), "replicated", "plain")


def _compression(model: ModelGeometry) -> Compression:
    if model.compression is None:
        raise ValueError(f"{model.name}: a DeepSeek-V4.1 model without compression")
    return model.compression


FAMILY = Family(
    layer_weights,
    deepseek_v4.dspark_weights,
    deepseek_v4.tower_weights,
    head_weights,
    caches,
    problems,
)
