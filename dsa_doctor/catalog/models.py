"""The DSA models known by name, with the source of every number."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from dsa_doctor.catalog.geometry import ModelGeometry, geometry_from_config

_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}

_GLM5: dict[str, Any] = {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "hidden_size": 6144,
    "vocab_size": 154880,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "q_lora_rank": 2048,
    "index_topk": 2048,
    "index_n_heads": 32,
    "index_head_dim": 128,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 202752,
}
# 21 full and 57 shared layers of 78: every fourth layer from the third on runs the indexer.
_GLM52 = {**_GLM5, "index_topk_freq": 4, "index_skip_topk_offset": 3, "max_position_embeddings": 1048576}
_DEEPSEEK_V32: dict[str, Any] = {
    **_GLM5,
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "hidden_size": 7168,
    "vocab_size": 129280,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "q_lora_rank": 1536,
    "index_n_heads": 64,
    "intermediate_size": 18432,
    "max_position_embeddings": 163840,
}
_GLM53_FLASH: dict[str, Any] = {
    **_GLM5,
    "architectures": ["Glm5NextForConditionalGeneration"],
    "model_type": "glm5_next",
    "num_hidden_layers": 45,
    "hidden_size": 4096,
    "qk_rope_head_dim": 0,
    "qk_nope_head_dim": 256,
    "q_lora_rank": 1536,
    "n_routed_experts": 288,
    "max_position_embeddings": 1048576,
}

_GLM5_SOURCE = (
    "defaults of transformers' GlmMoeDsaConfig (checkpoint zai-org/GLM-5); GLM-5 technical report, model table"
)
_GLM52_SOURCE = f"{_GLM5_SOURCE}; IndexShare (21 full, 57 shared layers) and 1M context from GLM-5.2's model card"
_V32_SOURCE = "defaults of transformers' DeepseekV32Config (checkpoint deepseek-ai/DeepSeek-V3.2)"
_FLASH_SOURCE = "defaults of transformers' Glm5NextTextConfig (checkpoint zai-org/GLM-5.3-Flash)"


@dataclass(frozen=True)
class KnownModel:
    """One catalog entry: the name users type, its Hub id and its configuration."""

    name: str
    hub_id: str
    config: dict[str, Any]
    source: str
    others: tuple[str, ...] = ()

    def geometry(self) -> ModelGeometry:
        """Return the geometry of this model."""
        return geometry_from_config(self.config, name=self.name, source=self.source, hub_id=self.hub_id)


KNOWN_MODELS: tuple[KnownModel, ...] = (
    KnownModel("GLM-5", "zai-org/GLM-5", _GLM5, _GLM5_SOURCE),
    KnownModel("GLM-5-FP8", "zai-org/GLM-5-FP8", {**_GLM5, "quantization_config": _FP8}, _GLM5_SOURCE),
    KnownModel("GLM-5.1", "zai-org/GLM-5.1", _GLM5, _GLM5_SOURCE),
    KnownModel("GLM-5.1-FP8", "zai-org/GLM-5.1-FP8", {**_GLM5, "quantization_config": _FP8}, _GLM5_SOURCE),
    KnownModel(
        "GLM-5.1-NVFP4",
        "nvidia/GLM-5.1-NVFP4",
        {
            **_GLM5,
            "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"},
        },
        f"{_GLM5_SOURCE}; forced fp8 KV cache as reported by users of the checkpoint",
    ),
    KnownModel("GLM-5.2", "zai-org/GLM-5.2", _GLM52, _GLM52_SOURCE),
    KnownModel("GLM-5.2-FP8", "zai-org/GLM-5.2-FP8", {**_GLM52, "quantization_config": _FP8}, _GLM52_SOURCE),
    KnownModel("GLM-5.3-Flash", "zai-org/GLM-5.3-Flash", _GLM53_FLASH, _FLASH_SOURCE),
    KnownModel(
        "DeepSeek-V3.2",
        "deepseek-ai/DeepSeek-V3.2",
        {**_DEEPSEEK_V32, "quantization_config": _FP8},
        _V32_SOURCE,
        ("DeepSeek-V3.2-Exp", "deepseek-ai/DeepSeek-V3.2-Exp"),
    ),
)

DEFAULT_MODEL = "GLM-5-FP8"
"""Judged where the user names no model: the model of the seed issue."""


@cache
def _by_name() -> dict[str, KnownModel]:
    return {spelling.lower(): model for model in KNOWN_MODELS for spelling in (model.name, model.hub_id, *model.others)}


def find_model(text: str) -> KnownModel | None:
    """Return the catalog entry of an alias or Hub id, whatever the case, or None."""
    return _by_name().get(text.strip().lower())
