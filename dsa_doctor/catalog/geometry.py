"""What the verdict and the planner need to know of a model, read from its config.json alone."""

from pathlib import Path
from typing import Any, Literal

from dsa_doctor.catalog.bounds import MOST_EXPERTS, MOST_LAYERS, ConfigError, Keys
from dsa_doctor.catalog.hybrid import (
    Compression,
    DSpark,
    Engram,
    LinearAttention,
    Vision,
    read_dense_layers,
    read_dspark,
    read_engram,
    read_glm_vision,
    read_linear_attention,
    read_v4_compression,
    read_v4_vision,
    read_v41_compression,
)
from dsa_doctor.catalog.quantization import Quantization, kv_cache_quantization, method_name, read_quantization
from dsa_doctor.facts.observation import Fact
from dsa_doctor.reading import ReadingError, parse_json, read_file

_MAX_CONFIG = 16 << 20
"""Bytes; the largest are lists of unquantised modules, of a few MiB."""


QUANTIZATION_FILE = "hf_quant_config.json"
"""Where ModelOpt's older checkpoints say how they are quantised."""
Family = Literal["mla", "glm5_next", "deepseek_v4", "deepseek_v41"]
"""How a model's layers are made: MLA throughout (or ordinary attention), or one of the hybrid families."""


class ModelGeometry(Fact):
    """A model's shape. Counts are per model, not per rank."""

    name: str
    hub_id: str | None = None
    source: str
    """Where the numbers come from."""
    architecture: str
    model_type: str
    uses_dsa: bool
    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    vocab_size: int
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    qk_nope_head_dim: int = 0
    v_head_dim: int = 0
    q_lora_rank: int = 0
    index_topk: int = 0
    index_n_heads: int = 0
    index_head_dim: int = 0
    shared_indexer_layers: int = 0
    """Layers that reuse the selection of an earlier layer (GLM-5.2's IndexShare)."""
    intermediate_size: int = 0
    moe_intermediate_size: int = 0
    n_routed_experts: int = 0
    n_shared_experts: int = 0
    first_k_dense_replace: int = 0
    num_nextn_predict_layers: int = 0
    max_position_embeddings: int = 0
    quantization: str | None = None
    """quant_method of the checkpoint, e.g. "fp8"; None for bf16 weights."""
    kv_cache_quantization: str | None = None
    """KV cache dtype that the checkpoint's metadata forces, e.g. "fp8"."""
    stored: Quantization | None = None
    """How the checkpoint stores its weights, module by module; None where it is not quantised."""
    published_bytes: int | None = None
    """Bytes of the checkpoint's safetensors files as the Hub lists them; None where the Hub was not asked."""
    shared_indexer_layer_ids: tuple[int, ...] = ()
    num_key_value_heads: int = 0
    head_dim: int = 0
    num_experts_per_tok: int = 0
    tie_word_embeddings: bool = False
    dense_layer_ids: tuple[int, ...] = ()
    """Decoder layers whose MLP is dense in a model with experts."""
    hyper_connections: int = 0
    """Residual streams (mHC); 0 for a model with one."""
    hash_layers: int = 0
    """First layers that route by token (DeepSeek-V4)."""
    index_kpool: int = 1
    """Tokens that one index key stands for (GLM-5.3-Flash)."""
    linear_attention: LinearAttention | None = None
    compression: Compression | None = None
    engram: Engram | None = None
    dspark: DSpark | None = None
    vision: Vision | None = None
    assumed: tuple[str, ...] = ()
    """Keys that the configuration lacks and whose default was taken, though the size of the cache rests on them."""
    family: Family = "mla"

    @property
    def head_size(self) -> int:
        """Return the width of one KV row: latent plus rope; compressed rows hold both in head_dim."""
        return self.head_dim if self.compression is not None else self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def weight_block_size(self) -> tuple[int, int] | None:
        """Return rows and columns that share one scale in most weights; None where scales are not spread in blocks."""
        return self.stored.block if self.stored is not None else None

    @property
    def draft_layers(self) -> int:
        """Return the layers of the draft model that lies in the checkpoint: MTP layers, or DSpark's stages."""
        return self.dspark.stages if self.dspark is not None else self.num_nextn_predict_layers

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture of experts; that of a draft layer is."""
        return self.n_routed_experts > 0 and layer not in self.dense_layer_ids

    def is_linear(self, layer: int) -> bool:
        """Whether a decoder layer is linear attention; draft layers never are."""
        return self.linear_attention is not None and layer in self.linear_attention.layers


_WIDTH = 1 << 20
_HEAD = 1 << 14
_FAMILIES: dict[str, Family] = {
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "deepseek_v41_text": "deepseek_v41",
    "glm5_next": "glm5_next",
    "glm5_next_text": "glm5_next",
}
_INDEX_HEADS = {"deepseek_v32": 64, "deepseek_v4": 64}
"""Heads of an indexer whose number the configuration lacks: the default of the model's class; 32 elsewhere."""


def geometry_from_config(config: dict[str, Any], *, name: str, source: str, hub_id: str | None = None) -> ModelGeometry:
    """Read the geometry from a parsed config.json; a multimodal wrapper's text_config is looked into.

    Raises:
        ConfigError: a key that every causal language model has is missing, or a value is out of its bounds.
    """
    text = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    architecture, model_type = _architecture(config, text, name), _model_type(config, text)
    family = _FAMILIES.get(model_type, "mla")
    keys, assumed = Keys(text, name), list[str]()
    layers = keys.whole("num_hidden_layers", 1, MOST_LAYERS)
    heads = keys.whole("num_attention_heads", 1, MOST_LAYERS)
    index_topk = keys.whole("index_topk", 0, _WIDTH, 0)
    is_v4 = family in ("deepseek_v4", "deepseek_v41")
    experts = keys.whole("n_routed_experts", 1 if is_v4 else 0, _WIDTH, 256 if is_v4 else 0)
    first_dense = keys.whole("first_k_dense_replace", 0, MOST_LAYERS, 0)
    shared = _shared_layers(keys, layers)
    if is_v4:
        assumed += [
            key for key in ("n_routed_experts", "q_lora_rank", "moe_intermediate_size") if text.get(key) is None
        ]
    if family == "glm5_next" and text.get("index_kpool") is None:
        assumed.append("index_kpool")
    model = ModelGeometry(
        name=name,
        hub_id=hub_id,
        source=source,
        architecture=architecture,
        model_type=model_type,
        uses_dsa=index_topk > 0,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_size=keys.whole("hidden_size", 1, _WIDTH),
        vocab_size=keys.whole("vocab_size", 1, 1 << 28),
        kv_lora_rank=keys.whole("kv_lora_rank", 0, _WIDTH, 0),
        qk_rope_head_dim=keys.whole("qk_rope_head_dim", 0, _HEAD, 64 if is_v4 else 0),
        qk_nope_head_dim=keys.whole("qk_nope_head_dim", 0, _HEAD, 0),
        v_head_dim=keys.whole("v_head_dim", 0, _HEAD, 0),
        q_lora_rank=keys.whole("q_lora_rank", 1 if is_v4 else 0, _WIDTH, 1024 if is_v4 else 0),
        index_topk=index_topk,
        index_n_heads=keys.whole(
            "index_n_heads", 1 if index_topk else 0, MOST_LAYERS, _INDEX_HEADS.get(model_type, 32)
        ),
        index_head_dim=keys.whole("index_head_dim", 32 if index_topk else 0, _HEAD, 128),
        shared_indexer_layers=len(shared),
        shared_indexer_layer_ids=shared,
        intermediate_size=keys.whole("intermediate_size", 0, _WIDTH, 0),
        moe_intermediate_size=keys.whole(
            "moe_intermediate_size", 1 if experts else 0, _WIDTH, 2048 if is_v4 else None if experts else 0
        ),
        n_routed_experts=experts,
        n_shared_experts=keys.whole("n_shared_experts", 0, MOST_LAYERS, 1 if is_v4 else 0),
        first_k_dense_replace=first_dense,
        num_nextn_predict_layers=keys.whole("num_nextn_predict_layers", 0, 64, 0),
        max_position_embeddings=keys.whole("max_position_embeddings", 1, 1 << 40, 0),
        quantization=method_name(text),
        kv_cache_quantization=kv_cache_quantization(text),
        stored=read_quantization(text),
        num_key_value_heads=keys.whole("num_key_value_heads", 1, MOST_LAYERS, heads),
        head_dim=keys.whole("head_dim", 0, _WIDTH, 512 if is_v4 else 0),
        num_experts_per_tok=keys.whole("num_experts_per_tok", 0, max(experts, 1), 0),
        tie_word_embeddings=text.get("tie_word_embeddings") is True,
        dense_layer_ids=read_dense_layers(keys, layers, first_dense) if experts and not is_v4 else (),
        hyper_connections=keys.whole("hc_mult", 0, 64, 4 if family != "mla" else 0),
        hash_layers=_hash_layers(keys, layers) if family == "deepseek_v4" else 0,
        index_kpool=keys.whole("index_kpool", 1, _WIDTH, 4) if family == "glm5_next" else 1,
        linear_attention=read_linear_attention(keys, layers, assumed) if family == "glm5_next" else None,
        compression=_compression(family, keys, layers, assumed),
        engram=read_engram(keys, layers) if family == "deepseek_v41" else None,
        dspark=read_dspark(keys, layers, experts) if is_v4 else None,
        vision=_vision(family, keys, architecture),
        assumed=tuple(assumed),
        family=family,
    )
    _check_relations(model, keys)
    return model


def _architecture(config: dict[str, Any], text: dict[str, Any], name: str) -> str:
    names = config.get("architectures") or text.get("architectures") or ["unknown"]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise Keys(config, name).error("architectures", names, "a list with the name of the model's class is needed")
    return str(names[0])


def _model_type(config: dict[str, Any], text: dict[str, Any]) -> str:
    for given in (config.get("model_type"), text.get("model_type")):
        if isinstance(given, str) and given:
            return given
    return "unknown"


def _compression(family: Family, keys: Keys, layers: int, assumed: list[str]) -> Compression | None:
    if family == "deepseek_v4":
        return read_v4_compression(keys, layers, assumed)
    return read_v41_compression(keys, layers, assumed) if family == "deepseek_v41" else None


def _vision(family: Family, keys: Keys, architecture: str) -> Vision | None:
    if family == "glm5_next":
        return read_glm_vision(keys, multimodal=architecture.endswith("ForConditionalGeneration"))
    return read_v4_vision(keys) if family in ("deepseek_v4", "deepseek_v41") else None


def _hash_layers(keys: Keys, layers: int) -> int:
    """Return the first layers that route by token, as transformers' DeepseekV4Config counts them."""
    types = keys.words("mlp_layer_types", ("hash_moe", "moe"), layers)
    return types.count("hash_moe") if types is not None else keys.whole("num_hash_layers", 0, layers, min(3, layers))


def _check_relations(model: ModelGeometry, keys: Keys) -> None:
    """Check what holds between values.

    Raises:
        ConfigError: one does not.
    """
    if model.kv_lora_rank + model.qk_rope_head_dim and model.qk_rope_head_dim % 2:
        raise keys.error("qk_rope_head_dim", model.qk_rope_head_dim, "an even number is needed: rope turns pairs")
    if model.uses_dsa and model.index_head_dim % 32:
        raise keys.error(
            "index_head_dim", model.index_head_dim, "a multiple of 32 is needed: index keys are fp8 blocks"
        )
    if model.index_topk % model.index_kpool:
        raise keys.error("index_topk", model.index_topk, f"a multiple of index_kpool ({model.index_kpool}) is needed")
    if model.compression is not None:
        groups, heads = model.compression.output_groups, model.num_attention_heads
        if heads % groups:
            raise keys.error("o_groups", groups, f"a divisor of num_attention_heads ({heads}) is needed")
        if not model.qk_rope_head_dim < model.head_dim:
            raise keys.error(
                "head_dim", model.head_dim, f"more than qk_rope_head_dim ({model.qk_rope_head_dim}) needed"
            )
    elif not model.kv_lora_rank and model.num_attention_heads % model.num_key_value_heads:
        accepted = f"a divisor of num_attention_heads ({model.num_attention_heads}) is needed"
        raise keys.error("num_key_value_heads", model.num_key_value_heads, accepted)
    if model.num_hidden_layers * model.n_routed_experts > MOST_EXPERTS:
        accepted = (
            f"at most {MOST_EXPERTS // model.num_hidden_layers:,} in {model.num_hidden_layers:,} layers is accepted"
        )
        raise keys.error("n_routed_experts", model.n_routed_experts, accepted)
    has_dense = bool(model.dense_layer_ids) or not model.n_routed_experts
    if model.uses_dsa and model.compression is None and has_dense and "intermediate_size" in keys.values:
        keys.whole("intermediate_size", 1, _WIDTH)


def geometry_from_file(path: Path) -> ModelGeometry:
    """Read the geometry from a model folder or a config.json; hf_quant_config.json beside it is taken into account.

    Raises:
        ConfigError: the file is missing, unreadable, not JSON, or lacks a needed key.
    """
    file = path / "config.json" if path.is_dir() else path
    config = _read_json(file)
    quantization_file = file.with_name(QUANTIZATION_FILE)
    if "quantization_config" not in config and quantization_file.is_file():
        config["quantization_config"] = _read_json(quantization_file)
    name = path.name if path.is_dir() else (path.parent.name or path.name)
    return geometry_from_config(config, name=name or "local model", source=f"local {file.name}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_file(file, limit=_MAX_CONFIG), finite=False)
    except ReadingError as error:
        raise ConfigError(
            f"{file}: {error}. Give a model folder that holds a config.json, or the config.json itself"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds a {type(content).__name__}, not a JSON object")
    return content


def _shared_layers(keys: Keys, layers: int) -> tuple[int, ...]:
    """Return the layers without an indexer of their own; the rules are those of transformers' GlmMoeDsaConfig."""
    pattern = keys.values.get("index_topk_pattern")
    types = keys.words("indexer_types", ("full", "shared"), layers)
    if types is None and isinstance(pattern, list):
        types = keys.words("index_topk_pattern", ("full", "shared", "F", "S"), layers)
    elif types is None and pattern is not None:
        if not isinstance(pattern, str) or len(pattern) < layers or set(pattern) - {"F", "S"}:
            raise keys.error("index_topk_pattern", pattern, f"a letter F or S for each of {layers:,} layers is needed")
        types = tuple(pattern[:layers])
    if types is not None:
        return tuple(layer for layer, one in enumerate(types) if one in ("shared", "S"))
    frequency = max(1, keys.whole("index_topk_freq", 0, MOST_LAYERS, 1))
    offset = keys.whole("index_skip_topk_offset", 0, MOST_LAYERS, 2)
    return tuple(layer for layer in range(layers) if max(layer - offset + 1, 0) % frequency)
