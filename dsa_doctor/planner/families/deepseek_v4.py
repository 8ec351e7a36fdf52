"""DeepSeek-V4: one 512-wide row per token, a sliding window in every layer, compressed caches in most.

Names: the checkpoint's, as vLLM's models/deepseek_v4/nvidia/model.py maps them; shapes compared with transformers'
DeepseekV4ForCausalLM, bytes with the published payload, which is met to the byte. Sharding: the same model file and
attention.py. Cache: DeepseekV4SWACache, DeepseekV4IndexerCache, CompressorStateCache and the attention's own
MLAAttentionSpec, in the fp8_ds_mla layout (584 bytes a row, pages padded to 576) or in plain rows (padded to 512).
"""

from collections.abc import Iterator

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.hybrid import Compression
from dsa_doctor.planner.families.base import Cache, CacheOptions, Family, Part, Weight, experts, has_indexer, mlp, norm
from dsa_doctor.planner.families.glm5_next import hyper_connection_weights
from dsa_doctor.planner.rows import index_row_bytes

_NAMES = ("w1", "w3", "w2")
_BLOCK = 256
_WINDOW_BLOCK = 64
_STATE_BLOCKS = {4: 4, 128: 8}
_FP8_ROW = 584
PLAIN_BACKENDS = ("FLASHINFER_MLA_SPARSE_DSV4", "FLASHINFER_MLA_SPARSE_SM120_DSV4", "TRITON_MLA_SPARSE")
"""Backends whose rows are two bytes a value, or one."""
_PLAIN_DTYPES = ("bfloat16", "float16", "bf16")


def layer_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield the weights of one decoder layer; draft layers have the window alone."""
    compression, hidden = _compression(model), model.hidden_size
    ratio = compression.ratios[layer] if layer < model.num_hidden_layers else 0
    yield from attention_weights(model, compression)
    if ratio > 1:
        yield from _compressor_weights("attn.compressor.", "compressor", model, ratio, model.head_dim)
    if has_indexer(model, layer):
        queries = (model.index_n_heads * model.index_head_dim, model.q_lora_rank)
        yield Weight("attn.indexer.wq_b.weight", "indexer", queries, "replicated", "linear")
        scores = (model.index_n_heads, hidden)
        yield Weight("attn.indexer.weights_proj.weight", "indexer", scores, "replicated", "plain")
        prefix = "attn.indexer.compressor."
        yield from _compressor_weights(prefix, "indexer", model, ratio, model.index_head_dim)
    yield from feed_forward_weights(model, layer)
    yield norm("attn_norm.weight", hidden)
    yield norm("ffn_norm.weight", hidden)
    yield from hyper_connection_weights(model)


def attention_weights(model: ModelGeometry, compression: Compression) -> Iterator[Weight]:
    """Yield the attention without what compresses: low-rank queries, one row, grouped low-rank output, sinks."""
    hidden, rank, width = model.hidden_size, model.q_lora_rank, model.head_dim
    heads = model.num_attention_heads
    output = compression.output_groups * compression.output_rank
    for name, rows in (("wq_a", rank), ("wkv", width)):
        yield Weight(f"attn.{name}.weight", "attention", (rows, hidden), "replicated", "linear")
    yield Weight("attn.wq_b.weight", "attention", (heads * width, rank), "tensor", "linear")
    grouped = (output, heads * width // compression.output_groups)
    yield Weight("attn.wo_a.weight", "attention", grouped, "tensor", "linear")
    yield Weight("attn.wo_b.weight", "attention", (hidden, output), "tensor", "linear", split="columns")
    yield norm("attn.q_norm.weight", rank)
    yield norm("attn.kv_norm.weight", width)
    yield Weight("attn.attn_sink", "attention", (heads,), "tensor", "float32")


def feed_forward_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield a layer's experts; the first layers of a DeepSeek-V4 model route by a table of token ids."""
    hidden, is_draft = model.hidden_size, layer >= model.num_hidden_layers
    count = model.dspark.experts if is_draft and model.dspark is not None else model.n_routed_experts
    yield Weight("ffn.gate.weight", "router", (count, hidden), "replicated", "plain")
    if layer < model.hash_layers:
        table = (model.vocab_size, max(1, model.num_experts_per_tok))
        yield Weight("ffn.gate.tid2eid", "router", table, "replicated", "int64")
    if layer >= model.hash_layers or model.vision is not None:
        yield Weight("ffn.gate.bias", "router", (count,), "replicated", "float32")
    if model.vision is not None:
        yield Weight("ffn.gate.bias_vl", "router", (count,), "replicated", "float32")
    yield from experts("ffn.", count, hidden, model.moe_intermediate_size, _NAMES)
    if model.n_shared_experts:
        width = model.moe_intermediate_size * model.n_shared_experts
        yield from mlp("ffn.shared_experts.", "shared experts", hidden, width, _NAMES)


def draft_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield what a draft layer adds: a plain MTP layer's projections, or DSpark's at its first and last stage."""
    if model.dspark is not None:
        yield from dspark_weights(model, layer)
        if layer == model.num_hidden_layers + model.dspark.stages - 1:
            yield from _stream_head_weights(model, "MTP")
        return
    hidden = model.hidden_size
    for name in ("e_proj", "h_proj"):
        yield Weight(f"{name}.weight", "MTP", (hidden, hidden), "replicated", "linear")
    for name in ("enorm.weight", "hnorm.weight", "norm.weight"):
        yield norm(name, hidden, "MTP")
    yield from _stream_head_weights(model, "MTP")


def dspark_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield DSpark's projection of the target's hidden states, and its Markov and confidence heads."""
    draft, hidden = model.dspark, model.hidden_size
    if draft is None:
        return
    if layer == model.num_hidden_layers:
        yield Weight("main_proj.weight", "MTP", (hidden, draft.targets * hidden), "replicated", "linear")
        yield norm("main_norm.weight", hidden, "MTP")
    if layer == model.num_hidden_layers + draft.stages - 1:
        yield norm("norm.weight", hidden, "MTP")
        for name in ("markov_w1", "markov_w2"):
            yield Weight(f"markov_head.{name}.weight", "MTP", (model.vocab_size, draft.rank), "replicated", "plain")
        yield Weight("confidence_head.proj.weight", "MTP", (1, hidden + draft.rank), "replicated", "plain")


def tower_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield the vision tower, its aligner and the image markers; all in bfloat16."""
    vision, hidden = model.vision, model.hidden_size
    if vision is None:
        return
    width, inner = vision.width, vision.intermediate
    yield _tower("vision.patch_embed.proj", (width, vision.channels * vision.patch**2))
    yield _tower("vision.patch_embed.proj.bias", (width,))
    for block in range(vision.layers):
        prefix = f"vision.blocks.{block}."
        for name, shape in (
            ("norm1", (width,)),
            ("attn.wqkv", (3 * width, width)),
            ("attn.wqkv.bias", (3 * width,)),
            ("attn.wo", (width, width)),
            ("attn.wo.bias", (width,)),
            ("norm2", (width,)),
            ("mlp.w1", (2 * inner, width)),
            ("mlp.w2", (width, inner)),
        ):
            yield _tower(f"{prefix}{name}", shape)
    yield _tower("vision.norm", (width,))
    merged = width * vision.merge**2
    yield _tower("aligner.w1", (hidden, merged))
    yield _tower("aligner.w1.bias", (hidden,))
    yield _tower("aligner.w2", (hidden, hidden))
    yield _tower("aligner.w2.bias", (hidden,))
    for name in ("image_start", "image_end", "image_newline"):
        yield Weight(name, "vision tower", (hidden,), "replicated", "plain")


def head_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield the final norm, the mix of the residual streams and the output head."""
    yield norm("norm.weight", model.hidden_size)
    yield from _stream_head_weights(model, "hyper-connections")
    yield Weight("head.weight", "output head", (model.vocab_size, model.hidden_size), "vocabulary", "plain")


def caches(model: ModelGeometry, layer: int, options: CacheOptions) -> Iterator[Cache]:
    """Yield the caches of one layer: the window's, the compressed rows and index keys, the compressors' states."""
    compression = _compression(model)
    row, alignment = row_layout(model, options)
    yield Cache("window", _WINDOW_BLOCK, padded(_WINDOW_BLOCK * row, alignment), window=compression.window)
    ratio = compression.ratios[layer] if layer < model.num_hidden_layers else 0
    if ratio <= 1:
        return
    yield Cache("rows", _BLOCK, padded(_BLOCK // ratio * row, alignment))
    yield _state(ratio, model.head_dim, alignment)
    if has_indexer(model, layer):
        keys = _BLOCK // ratio
        yield Cache("index", _BLOCK, padded(keys * index_row_bytes(model.index_head_dim), alignment))
        yield _state(ratio, model.index_head_dim, alignment)


def problems(model: ModelGeometry, tensor: int, pipeline: int) -> Iterator[str]:
    """Yield why vLLM would refuse these sizes."""
    del pipeline
    groups = _compression(model).output_groups
    if groups % tensor:
        yield f"--tensor-parallel-size {tensor} does not divide {groups} groups of the output projection (o_groups)"


def is_packed(options: CacheOptions) -> bool:
    """Whether vLLM stores packed fp8 rows: always, but under FlashInfer's or the plugin's class, or a two-byte type."""
    return options.backend not in PLAIN_BACKENDS and options.dtype not in _PLAIN_DTYPES


def row_layout(model: ModelGeometry, options: CacheOptions) -> tuple[int, int]:
    """Return the bytes of a row, of the window as of a compressed cache, and the alignment of their pages."""
    if is_packed(options):
        return _FP8_ROW, 576
    return model.head_dim * (1 if options.dtype.startswith("fp8") else 2), 512


def padded(size: int, alignment: int) -> int:
    """Return a page rounded up to its alignment."""
    return -(-size // alignment) * alignment


def _state(ratio: int, width: int, alignment: int) -> Cache:
    """Return the cache of a compressor's partial states: keys and scores in float32; twice where groups overlap."""
    overlap = 2 if ratio == 4 else 1
    block = _STATE_BLOCKS.get(ratio, 8)
    page = padded(block * 2 * overlap * width * 4, alignment)
    return Cache("window", block, page, window=overlap * ratio)


def _compressor_weights(prefix: str, part: Part, model: ModelGeometry, ratio: int, width: int) -> Iterator[Weight]:
    wide = 2 * width if ratio == 4 else width
    for name in ("wkv", "wgate"):
        yield Weight(f"{prefix}{name}.weight", part, (wide, model.hidden_size), "replicated", "plain")
    yield norm(f"{prefix}norm.weight", width)
    yield Weight(f"{prefix}ape", part, (ratio, wide), "replicated", "float32")


def _stream_head_weights(model: ModelGeometry, part: Part) -> Iterator[Weight]:
    streams = model.hyper_connections
    for name, shape in (("fn", (streams, streams * model.hidden_size)), ("base", (streams,)), ("scale", (1,))):
        yield Weight(f"hc_head_{name}", part, shape, "replicated", "float32")


def _tower(name: str, shape: tuple[int, ...]) -> Weight:
    full = name if name.endswith(".bias") else f"{name}.weight"
    whole = "norm" in name or "patch_embed" in name
    return Weight(full, "vision tower", shape, "replicated" if whole else "tensor", "plain")


def _compression(model: ModelGeometry) -> Compression:
    if model.compression is None:
        raise ValueError(f"{model.name}: a DeepSeek-V4 model without compression")
    return model.compression


FAMILY = Family(layer_weights, draft_weights, tower_weights, head_weights, caches, problems)
