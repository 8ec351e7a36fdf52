"""What hybrid DSA models have beside MLA: linear attention, compressed caches, windows, engrams, drafts, vision.

Each part is read from the model's own lists and sizes. Where a key is missing, the default of the class that loads the
model stands (transformers' DeepseekV4Config and Glm5NextTextConfig, vLLM's DeepseekV41Config), and the key is named in
`assumed`, so that nothing that rests on it is called exact.
"""

from dsa_doctor.catalog.bounds import MOST_LAYERS, Keys
from dsa_doctor.facts.observation import Fact

_WIDTH = 1 << 20
_ROWS = 1 << 34

_GLM_LAYER_TYPES = ("linear_attention", "indexed_attention", "deepseek_sparse_attention", "full_attention")
"""The second is called as the third by transformers before 5.20, and so by configurations that it wrote."""
_MLP_TYPES = ("dense", "sparse", "hash_moe", "moe")


class LinearAttention(Fact):
    """Layers of linear attention (KDA), with a state of constant size per request."""

    layers: tuple[int, ...]
    heads: int
    head_dim: int
    conv_kernel: int


class Compression(Fact):
    """Attention over a sliding window and, in most layers, a compressed cache of the whole context."""

    ratios: tuple[int, ...]
    """Tokens per row of the compressed cache, one entry per decoder layer; 0 for a layer with the window alone."""
    window: int
    output_groups: int
    output_rank: int
    kv_sources: tuple[int, ...] | None = None
    """Layers that own a compressed cache which others read; None where each layer owns its own."""
    index_sources: tuple[int, ...] | None = None
    """Layers with an indexer; None where each layer of ratio 4 has one."""


class Engram(Fact):
    """Tables of n-gram embeddings, which vLLM keeps in pinned host memory."""

    layers: tuple[int, ...]
    rows: tuple[int, ...]
    """Rows of each layer's table."""
    head_dim: int
    columns: int
    """Rows that one token looks up: heads times n-gram lengths."""


class DSpark(Fact):
    """A draft model of several stages that lies in the checkpoint's `mtp.` layers."""

    stages: int
    targets: int
    """Layers of the model whose hidden states the draft reads."""
    rank: int
    experts: int


class Vision(Fact):
    """A vision tower, kept in bfloat16."""

    layers: int
    width: int
    heads: int
    intermediate: int
    patch: int
    merge: int
    """Patches along one side that become one token."""
    frames: int = 1
    channels: int = 3
    output: int = 0
    projection: int = 0


def read_linear_attention(keys: Keys, layers: int, assumed: list[str]) -> LinearAttention:
    """Return the linear attention of a glm5_next text model; every fourth layer is MLA where no list says otherwise."""
    types = keys.words("layer_types", _GLM_LAYER_TYPES, layers)
    if types is None:
        assumed.append("layer_types")
        types = tuple("linear_attention" if layer % 4 != 3 else "indexed_attention" for layer in range(layers))
    nested = keys.section("linear_attn_config")
    heads = keys.whole("linear_num_heads", 1, MOST_LAYERS, 64)
    head_dim = keys.whole("linear_head_dim", 1, MOST_LAYERS, 128)
    kernel = keys.whole("linear_conv_kernel_dim", 1, 64, 4)
    if nested is not None:
        heads = nested.whole("num_heads", 1, MOST_LAYERS, heads)
        head_dim = nested.whole("head_dim", 1, MOST_LAYERS, head_dim)
        kernel = nested.whole("short_conv_kernel_size", 1, 64, kernel)
    linear = tuple(layer for layer, one in enumerate(types) if one == "linear_attention")
    return LinearAttention(layers=linear, heads=heads, head_dim=head_dim, conv_kernel=kernel)


def read_dense_layers(keys: Keys, layers: int, first_dense: int) -> tuple[int, ...]:
    """Return the layers whose MLP is dense, from the list of the model or its number of first dense layers."""
    types = keys.words("mlp_layer_types", _MLP_TYPES, layers)
    if types is None:
        return tuple(range(min(first_dense, layers)))
    return tuple(layer for layer, one in enumerate(types) if one == "dense")


def read_v4_compression(keys: Keys, layers: int, assumed: list[str]) -> Compression:
    """Return the compression of a DeepSeek-V4 model: ratio 4 with an indexer, ratio 128 without, or a window alone."""
    types = keys.words("layer_types", ("sliding_attention", *_V4_RATE_KEYS), layers)
    rates = {one: keys.whole(key, 1, _WIDTH, rate) for one, (key, rate) in _V4_RATE_KEYS.items()}
    nested = keys.section("compress_rates")
    if nested is not None:
        rates = {one: nested.whole(one, 1, _WIDTH, rate) for one, rate in rates.items()}
    if types is not None:
        ratios: tuple[int, ...] | None = tuple(rates.get(one, 0) for one in types)
    else:
        ratios = _layer_ratios(keys, layers)
    if ratios is None:
        assumed.append("compress_ratios")
        ratios = tuple(4 if layer > 2 and layer % 2 else 128 for layer in range(layers))
    for ratio in ratios:
        if ratio not in (0, 1, 4, 128):
            raise keys.error("compress_ratios", ratio, "0, 4 or 128 is needed: vLLM's compressor has no other")
    return _compression(keys, ratios, assumed)


def read_v41_compression(keys: Keys, layers: int, assumed: list[str]) -> Compression:
    """Return the compression of a DeepSeek-V4.1 model: ratios 0 to 2, caches and indexers shared between layers.

    A configuration without the lists cannot be planned exactly; every layer is then taken to keep the whole context.
    """
    ratios = _layer_ratios(keys, layers)
    kv = keys.wholes("kv_source_layer_ids", 0, layers - 1, MOST_LAYERS)
    index = keys.wholes("index_source_layer_ids", 0, layers - 1, MOST_LAYERS)
    missing = {"compress_ratios": ratios, "kv_source_layer_ids": kv, "index_source_layer_ids": index}
    assumed += [key for key, value in missing.items() if value is None]
    if ratios is None or kv is None or index is None:
        everywhere = tuple(range(layers))
        return _compression(keys, ratios or (1,) * layers, assumed, kv or everywhere, index or everywhere)
    for ratio in ratios:
        if ratio not in (0, 1, 2):
            raise keys.error("compress_ratios", ratio, "0, 1 or 2 is needed: vLLM's compressor has no other")
    for key, sources in (("kv_source_layer_ids", kv), ("index_source_layer_ids", index)):
        for layer in sources:
            if not ratios[layer]:
                raise keys.error(key, layer, "a layer with a compressed cache is needed (compress_ratios above 0)")
        if any(ratios) and (not sources or min(sources) > min(one for one, ratio in enumerate(ratios) if ratio)):
            raise keys.error(key, list(sources), "a source at or below the first layer with a compressed cache")
    return _compression(keys, ratios, assumed, tuple(sorted(set(kv))), tuple(sorted(set(index))))


def read_engram(keys: Keys, layers: int) -> Engram | None:
    """Return the n-gram tables; None for a model without."""
    where = keys.wholes("engram_layer_ids", 0, layers - 1, layers)
    if not where:
        return None
    rows = keys.wholes("engram_num_embeddings", 1, _ROWS, layers)
    if rows is None or len(rows) != len(where):
        raise keys.error("engram_num_embeddings", rows and list(rows), f"{len(where)} numbers of rows are needed")
    heads = keys.whole("engram_n_heads", 1, MOST_LAYERS, 8)
    lengths = keys.whole("engram_max_ngram_size", 2, 64, 4) - 1
    head_dim = keys.whole("engram_head_dim", 32, _WIDTH, 256)
    return Engram(layers=where, rows=rows, head_dim=head_dim, columns=heads * lengths)


def read_dspark(keys: Keys, layers: int, experts: int) -> DSpark | None:
    """Return the DSpark draft of a DeepSeek-V4 checkpoint; None where it holds a plain MTP layer.

    `num_nextn_predict_layers` does not tell: it is 1 beside three stages. The number is vLLM's `n_mtp_layers`, else
    the entries of compress_ratios past the last layer, else three.
    """
    targets = keys.wholes("dspark_target_layer_ids", 0, layers - 1, layers)
    if targets is None:
        return None
    ratios = keys.values.get("compress_ratios")
    drafts = len(ratios) - layers if isinstance(ratios, list) else 0
    stages = keys.whole("n_mtp_layers", 1, 64, drafts if 1 < drafts <= 64 else 3)
    return DSpark(
        stages=stages,
        targets=max(1, len(targets)),
        rank=keys.whole("dspark_markov_rank", 1, _WIDTH, 256),
        experts=keys.whole("dspark_n_routed_experts", 1, _WIDTH, experts or 1),
    )


def read_v4_vision(keys: Keys) -> Vision | None:
    """Return DeepSeek's vision tower: flat keys beside the text model's, or a vision_config; None without layers."""
    nested = keys.section("vision_config")
    section, names = (nested, _V41_VISION) if nested is not None else (keys, _V4_VISION)
    layers = section.whole(names[0], 0, MOST_LAYERS, 0)
    if not layers:
        return None
    width, heads, intermediate, patch, merge = (
        section.whole(key, 1, _WIDTH, default) for key, default in zip(names[1:], (1024, 16, 2816, 14, 3), strict=True)
    )
    return Vision(layers=layers, width=width, heads=heads, intermediate=intermediate, patch=patch, merge=merge)


def read_glm_vision(keys: Keys, *, multimodal: bool) -> Vision | None:
    """Return GLM-5.3's vision tower; a multimodal model without a vision_config has the default one of its class."""
    section = keys.section("vision_config")
    if section is None:
        if not multimodal:
            return None
        section = Keys({}, keys.name)
    return Vision(
        layers=section.whole("depth", 0, MOST_LAYERS, 24),
        width=section.whole("hidden_size", 1, _WIDTH, 1024),
        heads=section.whole("num_heads", 1, MOST_LAYERS, 16),
        intermediate=section.whole("intermediate_size", 1, _WIDTH, 4096),
        patch=section.whole("patch_size", 1, 4096, 14),
        merge=section.whole("spatial_merge_size", 1, 64, 2),
        frames=section.whole("temporal_patch_size", 1, 64, 2),
        channels=section.whole("in_channels", 1, 64, 3),
        output=section.whole("out_hidden_size", 1, _WIDTH, 1536),
        projection=section.whole("projection_intermediate_size", 1, _WIDTH, 10240),
    )


_V4_RATE_KEYS = {
    "compressed_sparse_attention": ("compress_rate_csa", 4),
    "heavily_compressed_attention": ("compress_rate_hca", 128),
}
_V4_VISION = (
    "vision_n_layers", "vision_dim", "vision_n_heads", "vision_inter_dim", "vision_patch_size",
    "vision_downsample_ratio",
)  # fmt: skip
_V41_VISION = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "patch_size", "downsample_ratio",
)  # fmt: skip


def _layer_ratios(keys: Keys, layers: int) -> tuple[int, ...] | None:
    """Return compress_ratios of the decoder layers; entries past them belong to draft layers."""
    ratios = keys.wholes("compress_ratios", 0, _WIDTH, 2 * MOST_LAYERS)
    if ratios is not None and len(ratios) < layers:
        raise keys.error("compress_ratios", list(ratios), f"an entry for each of {layers:,} layers is needed")
    return ratios[:layers] if ratios is not None else None


def _compression(
    keys: Keys,
    ratios: tuple[int, ...],
    assumed: list[str],
    kv_sources: tuple[int, ...] | None = None,
    index_sources: tuple[int, ...] | None = None,
) -> Compression:
    assumed += [key for key in ("sliding_window", "o_groups", "o_lora_rank") if keys.values.get(key) is None]
    return Compression(
        ratios=ratios,
        window=keys.whole("sliding_window", 1, _WIDTH, 128),
        output_groups=keys.whole("o_groups", 1, MOST_LAYERS, 8),
        output_rank=keys.whole("o_lora_rank", 1, _WIDTH, 1024),
        kv_sources=kv_sources,
        index_sources=index_sources,
    )
