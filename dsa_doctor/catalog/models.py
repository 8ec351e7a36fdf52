"""The DSA models known by name, with the source of every number."""

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Any

from dsa_doctor.catalog.checkpoints import (
    GLM51_AWQ_4BIT,
    GLM52_AWQ_INT4,
    GLM52_NVFP4,
    GLM52_W4A16_MTP,
    GLM53_FLASH_W4A16,
)
from dsa_doctor.catalog.geometry import ModelGeometry, geometry_from_config

_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}

_V4_FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128],
}

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
    "architectures": ["Glm5NextForConditionalGeneration"],
    "model_type": "glm5_next",
    "text_config": {
        "model_type": "glm5_next_text",
        "num_hidden_layers": 45,
        "num_attention_heads": 64,
        "hidden_size": 4096,
        "vocab_size": 154880,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 0,
        "qk_nope_head_dim": 256,
        "v_head_dim": 256,
        "q_lora_rank": 1536,
        "index_topk": 2048,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_kpool": 4,
        "intermediate_size": 12288,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 288,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 42,
        "layer_types": ["linear_attention" if layer % 4 != 3 else "indexed_attention" for layer in range(45)],
        "linear_num_heads": 64,
        "linear_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "hc_mult": 4,
        "num_nextn_predict_layers": 1,
        "max_position_embeddings": 1048576,
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "num_heads": 16,
        "intermediate_size": 4096,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": 3,
        "out_hidden_size": 1536,
        "projection_intermediate_size": 10240,
    },
}
_V4_COMMON: dict[str, Any] = {
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "vocab_size": 129280,
    "index_head_dim": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "hc_mult": 4,
    "sliding_window": 128,
    "o_lora_rank": 1024,
    "max_position_embeddings": 1048576,
}
_V4_FLASH: dict[str, Any] = {
    **_V4_COMMON,
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "hidden_size": 4096,
    "q_lora_rank": 1024,
    "o_groups": 8,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4],
    "num_hash_layers": 3,
    "index_topk": 512,
    "index_n_heads": 64,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_nextn_predict_layers": 1,
    "expert_dtype": "fp4",
    "quantization_config": _V4_FP8,
}
_V4_FLASH_0731 = {
    **_V4_FLASH,
    "dspark_block_size": 5,
    "dspark_markov_rank": 256,
    "dspark_target_layer_ids": [40, 41, 42],
    "n_mtp_layers": 3,
}
_V4_PRO: dict[str, Any] = {
    **_V4_FLASH,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "hidden_size": 7168,
    "q_lora_rank": 1536,
    "o_groups": 16,
    "compress_ratios": [128, 128, *[4, 128] * 29, 4],
    "index_topk": 1024,
    "moe_intermediate_size": 3072,
    "n_routed_experts": 384,
}
_V4_PRO_0813 = {
    **_V4_PRO,
    "dspark_block_size": 5,
    "dspark_markov_rank": 512,
    "dspark_target_layer_ids": [58, 59, 60],
    "n_mtp_layers": 3,
}
_V41_FLASH: dict[str, Any] = {
    "architectures": ["DeepseekV41ForCausalLM"],
    "model_type": "deepseek_v41",
    "text_config": {
        **_V4_COMMON,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "hidden_size": 5120,
        "q_lora_rank": 1280,
        "o_groups": 8,
        "compress_ratios": [0, 0, *[2] * 18, *[1] * 20, 0, 0, 0],
        "kv_source_layer_ids": [2, 8, 14, 20],
        "index_source_layer_ids": [2, 8, 14, 20, 24, 28, 32, 36],
        "candidate_source_layer_id": 20,
        "candidate_topk_blocks": 2048,
        "candidate_block_size": 8,
        "index_topk": 512,
        "index_n_heads": 32,
        "moe_intermediate_size": 2304,
        "n_routed_experts": 384,
        "engram_layer_ids": [1, 14],
        "engram_num_embeddings": [384006168, 384016682],
        "engram_max_ngram_size": 4,
        "engram_n_heads": 8,
        "engram_head_dim": 256,
        "dspark_block_size": 5,
        "dspark_markov_rank": 256,
        "dspark_target_layer_ids": [37, 38, 39],
        "dspark_n_routed_experts": 128,
        "dspark_num_experts_per_tok": 3,
        "num_nextn_predict_layers": 3,
    },
    "vision_config": {
        "num_hidden_layers": 32,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 2816,
        "patch_size": 14,
        "downsample_ratio": 3,
    },
    "expert_dtype": "fp4",
    "quantization_config": {**_V4_FP8, "weight_block_size": [32, 32]},
}

_GLM5_SOURCE = (
    "defaults of transformers' GlmMoeDsaConfig (checkpoint zai-org/GLM-5); GLM-5 technical report, model table"
)
_GLM52_SOURCE = f"{_GLM5_SOURCE}; IndexShare (21 full, 57 shared layers) and 1M context from GLM-5.2's model card"
_GLM53_SOURCE = f"{_GLM52_SOURCE}; GLM-5.3 has the same shapes (vllm-project/recipes#893, 704 GiB in FP8)"
_V32_SOURCE = "defaults of transformers' DeepseekV32Config (checkpoint deepseek-ai/DeepSeek-V3.2)"
_FLASH_SOURCE = (
    "defaults of transformers' Glm5NextTextConfig and Glm5NextVisionConfig (checkpoint zai-org/GLM-5.3-Flash); "
    "index_kpool 4 as the checkpoint has it (the class says 16)"
)
_V4_SOURCE = "defaults of transformers' DeepseekV4Config; compress_ratios of the checkpoint"
_V4_0731_SOURCE = f"{_V4_SOURCE}; DSpark keys as vllm-project/vllm#52111 quotes them; payload of its index"
_V4_PRO_SOURCE = (
    "config.json of the checkpoint, as public ports check it; payload of its index; the rank of "
    "DSpark's Markov head follows from that payload"
)
_V41_SOURCE = (
    "config.json of the checkpoint, as vLLM's DeepseekV41Config and public ports read it; payload of its index, tensor "
    "by tensor"
)


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
        "GLM-5.1-AWQ-4bit",
        "mconcat/GLM-5.1-AWQ-4bit",
        {**_GLM5, "quantization_config": GLM51_AWQ_4BIT},
        f"{_GLM5_SOURCE}; quantisation from the checkpoint's model card",
    ),
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
    KnownModel(
        "GLM-5.2-AWQ-INT4",
        "cyankiwi/GLM-5.2-AWQ-INT4",
        {**_GLM52, "quantization_config": GLM52_AWQ_INT4},
        f"{_GLM52_SOURCE}; compressed-tensors as the checkpoint's users describe it (vllm-project/vllm#38476)",
    ),
    KnownModel(
        "GLM-5.2-W4A16-MTP",
        "canada-quant/GLM-5.2-W4A16-MTP",
        {**_GLM52, "quantization_config": GLM52_W4A16_MTP},
        f"{_GLM52_SOURCE}; quantisation from the checkpoint's model card",
    ),
    KnownModel(
        "GLM-5.2-NVFP4",
        "nvidia/GLM-5.2-NVFP4",
        {**_GLM52, "quantization_config": GLM52_NVFP4},
        f"{_GLM52_SOURCE}; quantisation from the checkpoint's model card (432.9 GiB)",
    ),
    KnownModel("GLM-5.3", "zai-org/GLM-5.3", _GLM52, _GLM53_SOURCE),
    KnownModel("GLM-5.3-FP8", "zai-org/GLM-5.3-FP8", {**_GLM52, "quantization_config": _FP8}, _GLM53_SOURCE),
    KnownModel(
        "GLM-5.3-Flash",
        "zai-org/GLM-5.3-Flash",
        {**_GLM53_FLASH, "quantization_config": _FP8},
        f"{_FLASH_SOURCE}; FP8, 306 GiB in 62 files, which users write as 306 GB (vllm-project/vllm#53963)",
        ("GLM-5.3-Flash-FP8",),
    ),
    KnownModel("GLM-5.3-Flash-BF16", "zai-org/GLM-5.3-Flash-BF16", _GLM53_FLASH, _FLASH_SOURCE),
    KnownModel(
        "GLM-5.3-Flash-AWQ-W4A16",
        "wtdcode/GLM-5.3-Flash-AWQ-W4A16",
        {**_GLM53_FLASH, "quantization_config": GLM53_FLASH_W4A16},
        f"{_FLASH_SOURCE}; quantisation as its users describe it (wtdcode/vllm-backport#45, #87)",
        ("JJ48-24/GLM-5.3-Flash-AWQ-W4A16",),
    ),
    KnownModel(
        "DeepSeek-V3.2",
        "deepseek-ai/DeepSeek-V3.2",
        {**_DEEPSEEK_V32, "quantization_config": _FP8},
        _V32_SOURCE,
        ("DeepSeek-V3.2-Exp", "deepseek-ai/DeepSeek-V3.2-Exp"),
    ),
    KnownModel("DeepSeek-V4-Flash", "deepseek-ai/DeepSeek-V4-Flash", _V4_FLASH, _V4_SOURCE),
    KnownModel("DeepSeek-V4-Flash-0731", "deepseek-ai/DeepSeek-V4-Flash-0731", _V4_FLASH_0731, _V4_0731_SOURCE),
    KnownModel("DeepSeek-V4-Pro", "deepseek-ai/DeepSeek-V4-Pro", _V4_PRO, _V4_PRO_SOURCE),
    KnownModel("DeepSeek-V4-Pro-0813", "deepseek-ai/DeepSeek-V4-Pro-0813", _V4_PRO_0813, _V4_PRO_SOURCE),
    KnownModel("DeepSeek-V4.1-Flash", "deepseek-ai/DeepSeek-V4.1-Flash", _V41_FLASH, _V41_SOURCE),
)

DEFAULT_MODEL = "GLM-5-FP8"
"""Judged where the user names no model: the model of the seed issue."""


def plain_name(text: str) -> str:
    """Return a model's name as it is compared: lower case, with hyphens for underscores and blanks."""
    return text.strip().lower().replace("_", "-").replace(" ", "-")


@cache
def _by_name() -> dict[str, KnownModel]:
    return {plain_name(one): model for model in KNOWN_MODELS for one in (model.name, model.hub_id, *model.others)}


def find_model(text: str) -> KnownModel | None:
    """Return the catalog entry of an alias or Hub id, whatever the case and the separators, or None."""
    return _by_name().get(plain_name(text))


def similar_names(text: str) -> list[str]:
    """Return the catalog's names that are nearest to what was typed, an organisation before it left aside."""
    names = {plain_name(model.name): model.name for model in KNOWN_MODELS}
    wanted = plain_name(text.rstrip("/").rsplit("/", 1)[-1])
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    longer = [name for name in names if name.startswith(wanted)] if len(wanted) > 3 else []
    return [names[one] for one in dict.fromkeys((*near, *longer))][:3]
