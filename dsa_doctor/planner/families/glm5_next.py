"""GLM-5.3-Flash: linear attention (KDA) in most layers, MLA without rope in the others, pooled index keys.

Names: the checkpoint's, as vLLM's models/glm5next/common/model.py loads them; shapes compared with transformers'
Glm5NextForConditionalGeneration. vLLM keeps MLA, KDA, the indexer and the vision tower in bfloat16 whatever the
checkpoint (`quant_config=None` there). Cache: MLAAttentionSpec, Glm5NextIndexerCache (one key per index_kpool tokens),
Glm5NextTailCache (a ring) and MambaSpec, whose page vLLM pads to that of an attention block.
"""

from collections.abc import Iterator
from math import gcd, lcm

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.hybrid import LinearAttention
from dsa_doctor.planner.families import deepseek_v32
from dsa_doctor.planner.families.base import Cache, CacheOptions, Family, Weight, has_indexer, norm
from dsa_doctor.planner.rows import index_row_bytes, kv_layout, row_bytes

_BLOCK = 128
"""vLLM rounds the block of a hybrid model up to a multiple of this."""
_SM120 = "FLASHINFER_MLA_SPARSE_SM120"
_SM120_ROWS = 64
"""Rows of a page that FlashInfer's kernel takes there."""
_INDEX_STATES = 64
"""Most index keys of a page that DeepGEMM takes; on 12.x it takes no fewer."""
_WITHOUT_CHECKPOINT = ("TRITON_MLA_SPARSE",)
"""Backends of GPUs on which KDA's prefill is Triton's; FlashKDA (9.x, 10.x, 12.x) holds one more state per request."""


def layer_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield the weights of one decoder layer; draft layers are MLA and have no hyper-connections."""
    is_draft = layer >= model.num_hidden_layers
    linear = model.linear_attention
    if linear is not None and not is_draft and layer in linear.layers:
        yield from _kda_weights(model, linear)
    else:
        yield from deepseek_v32.mla_weights(model, linear="plain")
        if has_indexer(model, layer):
            yield from deepseek_v32.indexer_weights(model, linear="plain")
            pooled = (model.index_kpool, model.index_head_dim)
            gate = (model.index_head_dim, model.hidden_size)
            prefix = "self_attn.indexer.index_kpool_compress_"
            yield Weight(f"{prefix}ape", "indexer", pooled, "replicated", "float32")
            yield Weight(f"{prefix}gate", "indexer", gate, "replicated", "plain")
    yield from deepseek_v32.feed_forward_weights(model, layer)
    yield norm("input_layernorm.weight", model.hidden_size)
    yield norm("post_attention_layernorm.weight", model.hidden_size)
    if model.hyper_connections and not is_draft:
        yield from hyper_connection_weights(model)


def hyper_connection_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield mHC's float32 mixes of a layer, whole on every rank."""
    streams = model.hyper_connections
    mixes = (2 + streams) * streams
    for block in ("attn", "ffn"):
        shape = (mixes, streams * model.hidden_size)
        yield Weight(f"hc_{block}_fn", "hyper-connections", shape, "replicated", "float32")
        yield Weight(f"hc_{block}_base", "hyper-connections", (mixes,), "replicated", "float32")
        yield Weight(f"hc_{block}_scale", "hyper-connections", (3,), "replicated", "float32")


def tower_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield the vision tower."""
    vision = model.vision
    if vision is None:
        return
    width, inner, output = vision.width, vision.intermediate, vision.output
    patch = vision.channels * vision.frames * vision.patch**2
    yield _tower("visual.patch_embed.proj.weight", (width, patch))
    yield _tower("visual.patch_embed.proj.bias", (width,))
    for block in range(vision.layers):
        prefix = f"visual.blocks.{block}."
        for name in ("norm1", "norm2"):
            yield _tower(f"{prefix}{name}.weight", (width,))
        for name in ("q_norm", "k_norm"):
            yield _tower(f"{prefix}attn.{name}.weight", (width // vision.heads,))
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ):
            yield _tower(f"{prefix}{name}.weight", (rows, columns), split=True)
            yield _tower(f"{prefix}{name}.bias", (rows,), split=True)
    yield _tower("visual.merger.proj.weight", (output, output), split=True)
    yield _tower("visual.merger.post_projection_norm.weight", (output,))
    yield _tower("visual.merger.post_projection_norm.bias", (output,))
    for name, rows, columns in (
        ("gate_proj", vision.projection, output),
        ("up_proj", vision.projection, output),
        ("down_proj", output, vision.projection),
    ):
        yield _tower(f"visual.merger.{name}.weight", (rows, columns), split=True)
    yield _tower("visual.downsample.weight", (output, width * vision.merge**2))
    yield _tower("visual.downsample.bias", (output,))
    yield _tower("visual.post_layernorm.weight", (width,))


def caches(model: ModelGeometry, layer: int, options: CacheOptions) -> Iterator[Cache]:
    """Yield the caches of one layer; block and state page are aligned to each other as vLLM does it."""
    linear = model.linear_attention
    state = 0 if linear is None else _state_bytes(linear, options)
    layout = kv_layout(options.dtype, options.backend)
    row = row_bytes(model.head_size, layout)
    # vLLM aligns before the backend of 12.x turns "auto" into fp8 rows.
    aligned = row_bytes(model.head_size, "two-byte rows") if options.dtype == "auto" else row
    first = max(1, -(-state // (aligned * _BLOCK))) * _BLOCK
    if linear is not None and layer in linear.layers:
        extra = 0 if options.backend in _WITHOUT_CHECKPOINT else 1
        yield Cache("state", first, first * aligned, states=2 + extra + options.drafts)
        return
    is_sm120, key = options.backend == _SM120, index_row_bytes(model.index_head_dim)
    block = lcm(first, _INDEX_STATES * model.index_kpool) if is_sm120 else first
    yield Cache("rows", block, block * row, stride=_SM120_ROWS * row if is_sm120 else row)
    if has_indexer(model, layer):
        read = gcd(_INDEX_STATES * model.index_kpool, block)
        stride = read // model.index_kpool * key if read < block else 1
        yield Cache("index", block, -(-block // model.index_kpool) * key, stride=max(1, stride))
        span = -(-(model.index_kpool + options.drafts) // model.index_kpool)
        ring = model.index_kpool * (1 << (span - 1).bit_length())
        yield Cache("ring", ring, ring * 2 * model.index_head_dim * 2)


def problems(model: ModelGeometry, tensor: int, pipeline: int) -> Iterator[str]:
    """Yield why vLLM would refuse these sizes."""
    linear = model.linear_attention
    if pipeline > 1:
        yield (
            f"--pipeline-parallel-size {pipeline}: vLLM has no pipeline parallelism for this model, whose "
            "hyper-connections are not handed from rank to rank; accepted: 1"
        )
    if linear is not None and linear.heads % tensor:
        yield f"--tensor-parallel-size {tensor} does not divide {linear.heads} heads of linear attention"


def _kda_weights(model: ModelGeometry, linear: LinearAttention) -> Iterator[Weight]:
    hidden, width = model.hidden_size, linear.heads * linear.head_dim
    for name, rows, columns in (
        ("q_proj", width, hidden),
        ("k_proj", width, hidden),
        ("v_proj", width, hidden),
        ("b_proj", linear.heads, hidden),
        ("f_b_proj", width, linear.head_dim),
        ("g_b_proj", width, linear.head_dim),
    ):
        yield Weight(f"self_attn.{name}.weight", "linear attention", (rows, columns), "tensor", "plain")
    for name in ("f_a_proj", "g_a_proj"):
        shape = (linear.head_dim, hidden)
        yield Weight(f"self_attn.{name}.weight", "linear attention", shape, "replicated", "plain")
    for name in ("q_conv1d", "k_conv1d", "v_conv1d"):
        shape = (width, linear.conv_kernel)
        yield Weight(f"self_attn.{name}.weight", "linear attention", shape, "tensor", "float32")
    yield Weight("self_attn.A_log", "linear attention", (linear.heads,), "tensor", "float32")
    yield Weight("self_attn.dt_bias", "linear attention", (width,), "tensor", "float32")
    yield norm("self_attn.o_norm.weight", linear.head_dim)
    output = (hidden, width)
    yield Weight("self_attn.o_proj.weight", "linear attention", output, "tensor", "plain", split="columns")


def _tower(name: str, shape: tuple[int, ...], *, split: bool = False) -> Weight:
    return Weight(name, "vision tower", shape, "tensor" if split else "replicated", "plain")


def _state_bytes(linear: LinearAttention, options: CacheOptions) -> int:
    """Return the bytes of KDA's state on one rank: the recurrent one in float32, the convolution's in bfloat16."""
    heads = -(-linear.heads // options.tensor)
    recurrent = heads * linear.head_dim**2 * 4
    return recurrent + 3 * heads * linear.head_dim * (linear.conv_kernel - 1 + options.drafts) * 2


FAMILY = Family(layer_weights, deepseek_v32.draft_weights, tower_weights, deepseek_v32.head_weights, caches, problems)
