"""Configurations of tiny DSA models with the shapes that vLLM's DSA path insists on."""

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
