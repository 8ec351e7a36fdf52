"""What the verdict and the planner need to know of a model, read from its config.json alone."""

from pathlib import Path
from typing import Any, Literal

from dsa_doctor.catalog.quantization import Quantization, read_quantization
from dsa_doctor.facts.observation import Fact
from dsa_doctor.reading import ReadingError, parse_json, read_file

_MAX_CONFIG = 16 << 20
"""Bytes; the largest are lists of unquantised modules, of a few MiB."""


QUANTIZATION_FILE = "hf_quant_config.json"
"""Where ModelOpt's older checkpoints say how they are quantised."""


class ConfigError(ValueError):
    """A config.json that cannot be read or lacks what it must hold; the message names the file and the key."""


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
    quantization_algorithm: str | None = None
    """quant_algo where the method alone does not say it, e.g. "nvfp4" under "modelopt"."""
    weight_block_size: tuple[int, int] | None = None
    """Rows and columns that share one scale in an FP8 checkpoint; None for one scale per tensor."""
    unquantized_modules: tuple[str, ...] = ()
    """Modules that the checkpoint says are left unquantised."""
    stored: Quantization | None = None
    """How the checkpoint stores its weights, module by module; None where it is not quantised."""
    published_bytes: int | None = None
    """Bytes of the checkpoint's safetensors files as the Hub lists them; None where the Hub was not asked."""
    shared_indexer_layer_ids: tuple[int, ...] = ()
    num_key_value_heads: int = 0
    head_dim: int = 0
    num_experts_per_tok: int = 0
    tie_word_embeddings: bool = False
    refusal: Literal["deepseek_v4", "glm5_next"] | None = None
    """A family that has an indexer of its own, which the plugin does not serve."""

    @property
    def head_size(self) -> int:
        """Return the width of one KV row: latent plus rope."""
        return self.kv_lora_rank + self.qk_rope_head_dim


_FAMILIES_OF_THEIR_OWN: dict[str, Literal["deepseek_v4", "glm5_next"]] = {
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v4",
    "glm5_next": "glm5_next",
    "glm5_next_text": "glm5_next",
}


def geometry_from_config(config: dict[str, Any], *, name: str, source: str, hub_id: str | None = None) -> ModelGeometry:
    """Read the geometry from a parsed config.json; a multimodal wrapper's text_config is looked into.

    Raises:
        ConfigError: a key that every causal language model has is missing or is not a number.
    """
    text = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    architectures = config.get("architectures") or text.get("architectures") or ["unknown"]
    model_type = str(config.get("model_type") or text.get("model_type") or "unknown")

    def number(key: str, default: int | None = None) -> int:
        value = text.get(key, default)
        if value is None and default is not None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name}: key {key!r} of the model's config.json is {value!r}; a whole number is needed")
        return value

    layers = number("num_hidden_layers")
    heads = number("num_attention_heads")
    index_topk = number("index_topk", 0)
    shared = _shared_layers(text, layers)
    return ModelGeometry(
        name=name,
        hub_id=hub_id,
        source=source,
        architecture=str(architectures[0]),
        model_type=model_type,
        uses_dsa=index_topk > 0,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_size=number("hidden_size"),
        vocab_size=number("vocab_size"),
        kv_lora_rank=number("kv_lora_rank", 0),
        qk_rope_head_dim=number("qk_rope_head_dim", 0),
        qk_nope_head_dim=number("qk_nope_head_dim", 0),
        v_head_dim=number("v_head_dim", 0),
        q_lora_rank=number("q_lora_rank", 0),
        index_topk=index_topk,
        index_n_heads=number("index_n_heads", 0),
        index_head_dim=number("index_head_dim", 0),
        shared_indexer_layers=len(shared),
        shared_indexer_layer_ids=shared,
        intermediate_size=number("intermediate_size", 0),
        moe_intermediate_size=number("moe_intermediate_size", 0),
        n_routed_experts=number("n_routed_experts", 0),
        n_shared_experts=number("n_shared_experts", 0),
        first_k_dense_replace=number("first_k_dense_replace", 0),
        num_nextn_predict_layers=number("num_nextn_predict_layers", 0),
        max_position_embeddings=number("max_position_embeddings", 0),
        quantization=_quantization(text),
        kv_cache_quantization=_kv_cache_quantization(text),
        quantization_algorithm=_quantization_algorithm(text),
        weight_block_size=_weight_block_size(text),
        unquantized_modules=_unquantized_modules(text),
        stored=read_quantization(text),
        num_key_value_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", 0),
        num_experts_per_tok=number("num_experts_per_tok", 0),
        tie_word_embeddings=text.get("tie_word_embeddings") is True,
        refusal=_FAMILIES_OF_THEIR_OWN.get(model_type),
    )


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


def _shared_layers(text: dict[str, Any], layers: int) -> tuple[int, ...]:
    """Return the layers without an indexer of their own; the rules are those of transformers' GlmMoeDsaConfig."""
    types = text.get("indexer_types")
    if types is None and (pattern := text.get("index_topk_pattern")) is not None:
        types = [{"F": "full", "S": "shared"}.get(letter, letter) for letter in pattern]
    if isinstance(types, list):
        return tuple(layer for layer, one in enumerate(types[:layers]) if one == "shared")
    frequency, offset = text.get("index_topk_freq", 1), text.get("index_skip_topk_offset", 2)
    if not (isinstance(frequency, int) and isinstance(offset, int)) or frequency <= 1:
        return ()
    return tuple(layer for layer in range(layers) if max(layer - offset + 1, 0) % frequency)


def _quantization(text: dict[str, Any]) -> str | None:
    settings = text.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    nested = settings.get("quantization")
    inner = nested if isinstance(nested, dict) else settings
    method = settings.get("quant_method") or inner.get("quant_algo")
    return str(method).lower() if method else None


def _quantization_sources(text: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the quantisation settings and, where ModelOpt nests them, the nested ones."""
    settings = text.get("quantization_config")
    if not isinstance(settings, dict):
        return []
    nested = settings.get("quantization")
    return [settings, nested] if isinstance(nested, dict) else [settings]


def _quantization_algorithm(text: dict[str, Any]) -> str | None:
    found = [one["quant_algo"] for one in _quantization_sources(text) if isinstance(one.get("quant_algo"), str)]
    return found[0].lower() if found else None


def _weight_block_size(text: dict[str, Any]) -> tuple[int, int] | None:
    for source in _quantization_sources(text):
        block = source.get("weight_block_size")
        if isinstance(block, list) and len(block) == 2 and all(isinstance(one, int) and one > 0 for one in block):
            return block[0], block[1]
    return None


def _unquantized_modules(text: dict[str, Any]) -> tuple[str, ...]:
    for source in _quantization_sources(text):
        for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
            modules = source.get(key)
            if isinstance(modules, list):
                return tuple(one for one in modules if isinstance(one, str))
    return ()


def _kv_cache_quantization(text: dict[str, Any]) -> str | None:
    """Return the KV cache dtype that the checkpoint's quantisation metadata asks vLLM for, or None.

    ModelOpt writes kv_cache_quant_algo (flat, or nested under "quantization"); compressed-tensors kv_cache_scheme.
    """
    settings = text.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    nested = settings.get("quantization")
    for source in (settings, nested if isinstance(nested, dict) else {}):
        algorithm = source.get("kv_cache_quant_algo")
        if isinstance(algorithm, str) and algorithm:
            return algorithm.lower()
        scheme = source.get("kv_cache_scheme")
        if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
            return "fp8" if scheme.get("type") == "float" else "int8"
    return None
