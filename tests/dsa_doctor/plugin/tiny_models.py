"""Configurations of tiny DSA models with the shapes that vLLM's DSA path insists on."""

from pathlib import Path
from typing import Any

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}


def tiny_config(architecture: str = "GlmMoeDsaForCausalLM", **changes: Any) -> dict[str, Any]:
    """Return a config.json of a three-layer model: 512+64 KV rows, 16 heads, index_topk 512."""
    glm = architecture == "GlmMoeDsaForCausalLM"
    nope, value = (192, 256) if glm else (128, 128)
    return {
        "architectures": [architecture],
        "model_type": "glm_moe_dsa" if glm else "deepseek_v32",
        "hidden_size": 1024,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": 512,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": 64,
        "qk_head_dim": nope + 64,
        "v_head_dim": value,
        "index_topk": 512,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "moe_intermediate_size": 256,
        "intermediate_size": 1024,
        "vocab_size": 2048,
        "max_position_embeddings": 8192,
        "num_nextn_predict_layers": 1,
        "torch_dtype": "bfloat16",
        "rms_norm_eps": 1e-5,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "moe_layer_freq": 1,
        **changes,
    }


V4_FP8 = {**FP8, "scale_fmt": "ue8m0"}
YARN = {
    "type": "yarn",
    "factor": 16,
    "original_max_position_embeddings": 65536,
    "beta_fast": 32,
    "beta_slow": 1,
}


def tiny_v4_config(architecture: str = "DeepseekV4ForCausalLM", **changes: Any) -> dict[str, Any]:
    """Return a config.json with every kind of layer: two of the window alone, C4A, C128A, the first routed by token.

    The attention has V4-Flash's shapes and a group of heads fewer; experts are MXFP4 in a checkpoint of fp8 blocks.
    """
    return {
        "architectures": [architecture],
        "model_type": "deepseek_v4",
        "torch_dtype": "bfloat16",
        "expert_dtype": "fp4",
        "hidden_size": 1024,
        "num_hidden_layers": 4,
        "compress_ratios": [0, 0, 4, 128, 4],
        "num_attention_heads": 16,
        "num_key_value_heads": 1,
        "head_dim": 512,
        "q_lora_rank": 256,
        "qk_rope_head_dim": 64,
        "o_groups": 4,
        "o_lora_rank": 256,
        "sliding_window": 128,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 512,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 256,
        "num_hash_layers": 1,
        "routed_scaling_factor": 1.5,
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "swiglu_limit": 10.0,
        "hidden_act": "silu",
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "compress_rope_theta": 160000.0,
        "rope_scaling": YARN,
        "num_nextn_predict_layers": 1,
        "vocab_size": 2048,
        "max_position_embeddings": 1048576,
        "tie_word_embeddings": False,
        "quantization_config": V4_FP8,
        **changes,
    }


DSPARK: dict[str, Any] = {
    "dspark_block_size": 5,
    "dspark_markov_rank": 64,
    "dspark_target_layer_ids": [1, 2, 3],
    "dspark_noise_token_id": 7,
    "n_mtp_layers": 3,
}
"""What a checkpoint with DSpark's stages says besides."""


def tiny_pooled_config(**changes: Any) -> dict[str, Any]:
    """Return a config.json of GLM-5.3-Flash with four layers (three linear, one sparse): 512 values a row, pools of 4.

    Args:
        changes: of the text model.
    """
    text = {
        "model_type": "glm5_next_text",
        "layer_types": ["linear_attention"] * 3 + ["deepseek_sparse_attention"],
        "hidden_size": 1024,
        "intermediate_size": 1024,
        "moe_intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "linear_num_heads": 8,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "swiglu_limit": 10.0,
        "vocab_size": 2048,
        "kv_lora_rank": 512,
        "q_lora_rank": 512,
        "qk_rope_head_dim": 0,
        "qk_nope_head_dim": 256,
        "v_head_dim": 256,
        "index_topk": 2048,
        "index_kpool": 4,
        "index_n_heads": 16,
        "index_head_dim": 128,
        "max_position_embeddings": 65536,
        "mhc": True,
        "hc_mult": 4,
        "mla_use_nope": True,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "moe_router_dtype": "float32",
        "num_nextn_predict_layers": 1,
        "indexer_rope_interleave": True,
        **changes,
    }
    vision = {
        "model_type": "glm5_next_vision",
        "depth": 1,
        "hidden_size": 64,
        "num_heads": 1,
        "intermediate_size": 64,
        "out_hidden_size": 1024,
        "projection_intermediate_size": 64,
    }
    tokens = ("image_token", "video_token", "image_start_token", "image_end_token", "video_start_token")
    return {
        "architectures": ["Glm5NextForConditionalGeneration"],
        "model_type": "glm5_next",
        "torch_dtype": "bfloat16",
        "text_config": text,
        "vision_config": vision,
        **{f"{name}_id": number for number, name in enumerate((*tokens, "video_end_token"), 1)},
    }


def tiny_v41_config(vision: bool = False, engram: bool = True, **changes: Any) -> dict[str, Any]:
    """Return a config.json with every kind of layer of DeepSeek-V4.1.

    Two layers of the window alone, a source of ratio 2 with a reader, a source of ratio 1 whose indexer chooses
    candidate blocks, and a layer that shares its keys with an indexer of its own; the engram before the second layer.

    Args:
        vision: whether there is a vision tower.
        engram: whether there is an engram; its tables fit `WORDS` in `tiny_tokenizer`.
        changes: of the text model.
    """
    shared = tiny_v4_config()
    for key in ("architectures", "model_type", "num_hash_layers", "num_nextn_predict_layers", "rope_scaling"):
        del shared[key]
    quantised, experts = shared.pop("quantization_config"), shared.pop("expert_dtype")
    if engram:
        changes = {**ENGRAM, **changes}
    text = {
        **shared,
        "model_type": "deepseek_v41_text",
        "rope_scaling": YARN,
        "num_hidden_layers": 6,
        "compress_ratios": [0, 0, 2, 2, 1, 1, 0, 0, 0],
        "kv_source_layer_ids": [2, 4],
        "index_source_layer_ids": [2, 4, 5],
        "candidate_source_layer_id": 4,
        "candidate_topk_blocks": 128,
        "candidate_block_size": 8,
        "index_n_heads": 32,
        "rms_norm_eps": 1e-20,
        **changes,
    }
    tower = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}
    return {
        "architectures": ["DeepseekV41ForCausalLM"],
        "model_type": "deepseek_v41",
        "torch_dtype": "bfloat16",
        "expert_dtype": experts,
        "text_config": text,
        **({"vision_config": tower} if vision else {}),
        "quantization_config": {**quantised, "weight_block_size": [32, 32]},
    }


ENGRAM: dict[str, Any] = {
    "engram_layer_ids": [1],
    "engram_num_embeddings": [2048],
    "engram_vocab_size": 200,
    "engram_max_ngram_size": 3,
    "engram_n_heads": 4,
    "engram_head_dim": 128,
    "engram_compressed_vocab_size": 33,
    "engram_pad_token_id": 0,
}
"""What a text model with a small engram says besides; its vocabulary is `WORDS`, of which two normalise alike."""

WORDS = ("<pad>", "The", "the", *(f"word{number}" for number in range(31)))


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of `WORDS` beside a config.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)
