"""The plan's KV cache against the installed vLLM's own specs and pool, for models of the real patterns."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.planner.cache import pool_of, stage_caches
from dsa_doctor.planner.families.base import CacheOptions
from dsa_doctor.planner.parallel import Parallel
from tests.kv_cache_specs import kv_cache_of
from tests.releases import release_folder

GIB = 2**30
CONTEXT, BATCH = 1048576, 8192
YARN = {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}
V4_FP8 = {
    "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "scale_fmt": "ue8m0",
    "fmt": "e4m3",
}  # fmt: skip
V4_TEXT = {
    "torch_dtype": "bfloat16", "hidden_size": 256, "num_hidden_layers": 43, "num_attention_heads": 8,
    "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64, "q_lora_rank": 128, "o_groups": 8,
    "o_lora_rank": 128, "vocab_size": 512, "sliding_window": 128, "index_topk": 512, "index_n_heads": 64,
    "index_head_dim": 128, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 256, "topk_method": "noaux_tc", "scoring_func": "sqrtsoftplus", "norm_topk_prob": True,
    "hidden_act": "silu", "swiglu_limit": 10.0, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10000, "compress_rope_theta": 160000,
    "rope_scaling": YARN, "routed_scaling_factor": 1.5,
}  # fmt: skip
V4 = {
    **V4_TEXT, "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "expert_dtype": "fp4",
    "compress_ratios": [0, 0, *[4, 128] * 20, 4], "num_hash_layers": 3, "num_nextn_predict_layers": 1,
    "quantization_config": V4_FP8,
}  # fmt: skip
V4_PRO = {**V4, "num_hidden_layers": 61, "compress_ratios": [128, 128, *[4, 128] * 29, 4], "index_topk": 1024}
V41 = {
    "architectures": ["DeepseekV41ForCausalLM"], "model_type": "deepseek_v41", "torch_dtype": "bfloat16",
    "expert_dtype": "fp4", "quantization_config": {**V4_FP8, "weight_block_size": [32, 32]},
    "text_config": {
        **V4_TEXT, "num_hidden_layers": 40, "index_n_heads": 32, "num_nextn_predict_layers": 3,
        "compress_ratios": [0, 0, *[2] * 18, *[1] * 20, 0, 0, 0], "kv_source_layer_ids": [2, 8, 14, 20],
        "index_source_layer_ids": [2, 8, 14, 20, 24, 28, 32, 36], "candidate_source_layer_id": 20,
        "candidate_topk_blocks": 2048, "candidate_block_size": 8,
    },
    "vision_config": {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 64},
}  # fmt: skip


def _glm(heads):
    text = {
        "model_type": "glm5_next_text", "hidden_size": 1024, "intermediate_size": 1024, "moe_intermediate_size": 256,
        "num_hidden_layers": 45, "num_attention_heads": heads, "num_key_value_heads": heads, "linear_num_heads": heads,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "vocab_size": 2048, "kv_lora_rank": 512,
        "q_lora_rank": 512, "qk_rope_head_dim": 0, "qk_nope_head_dim": 256, "v_head_dim": 256, "index_topk": 2048,
        "index_kpool": 4, "index_n_heads": 32, "index_head_dim": 128, "max_position_embeddings": CONTEXT, "mhc": True,
        "mla_use_nope": True, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_router_dtype": "float32",
        "num_nextn_predict_layers": 1, "indexer_rope_interleave": True, "hc_mult": 4,
    }  # fmt: skip
    vision = {
        "model_type": "glm5_next_vision", "depth": 1, "hidden_size": 64, "num_heads": 1, "intermediate_size": 64,
        "out_hidden_size": 1024, "projection_intermediate_size": 64,
    }  # fmt: skip
    tokens = ("image_token_id", "video_token_id", "image_start_token_id", "image_end_token_id", "video_start_token_id",
              "video_end_token_id")  # fmt: skip
    ids = {name: number for number, name in enumerate(tokens, 1)}
    return {
        "architectures": ["Glm5NextForConditionalGeneration"], "model_type": "glm5_next", "torch_dtype": "bfloat16",
        "text_config": text, "vision_config": vision, **ids,
    }  # fmt: skip


FLASHINFER_V4 = {"attention_backend": "FLASHINFER_MLA_SPARSE_DSV4"}
TEXT_ONLY = {"language_model_only": True}
TRITON_KDA = {**TEXT_ONLY, "additional_config": {"kda_prefill_backend": "triton"}}
MTP = {"speculative_config": {"method": "mtp", "num_speculative_tokens": 1}}
OURS = CacheOptions(backend="TRITON_MLA_SPARSE")
SM120 = "FLASHINFER_MLA_SPARSE_SM120"
CASES = {
    "V4-Flash, packed": (V4, "9.0", {"kv_cache_dtype": "fp8"}, CacheOptions(dtype="fp8_ds_mla")),
    "V4-Flash, bf16": (V4, "10.0", FLASHINFER_V4, CacheOptions(backend="FLASHINFER_MLA_SPARSE_DSV4")),
    "V4-Pro, packed": (V4_PRO, "9.0", {"kv_cache_dtype": "fp8"}, CacheOptions(dtype="fp8_ds_mla")),
    "V4-Flash under the plugin": (V4, "8.0", {}, OURS),
    "V4-Flash under the plugin, by name, with its draft": (
        V4, "8.6", {"attention_backend": "TRITON_MLA_SPARSE", **MTP}, replace(OURS, drafts=1)
    ),
    "V4-Pro under the plugin": (V4_PRO, "8.0", {}, OURS),
    "V4.1-Flash, packed": (V41, "9.0", {"kv_cache_dtype": "fp8", **TEXT_ONLY}, CacheOptions(dtype="fp8_ds_mla")),
    "V4.1-Flash, bf16": (
        V41, "10.0", {**FLASHINFER_V4, **TEXT_ONLY}, CacheOptions(backend="FLASHINFER_MLA_SPARSE_DSV4")
    ),
    "GLM-5.3-Flash as at TP8": (_glm(8), "9.0", TRITON_KDA, CacheOptions(backend="TRITON_MLA_SPARSE")),
    "GLM-5.3-Flash as at TP4": (_glm(16), "9.0", TRITON_KDA, CacheOptions(backend="TRITON_MLA_SPARSE")),
    "GLM-5.3-Flash, fp8": (
        _glm(8), "9.0", {**TRITON_KDA, "kv_cache_dtype": "fp8"}, CacheOptions(backend="other", dtype="fp8")
    ),
    "GLM-5.3-Flash on 12.0": (_glm(8), "12.0", TRITON_KDA, CacheOptions(backend=SM120)),
}  # fmt: skip


def _without_checkpoints(caches):
    """Where KDA's kernel is FlashKDA, vLLM holds one state more; the cases ask for Triton's."""
    return tuple(replace(one, states=2) if one.kind == "state" else one for one in caches)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_pages_blocks_and_concurrency_are_those_of_vllm(name):
    config, capability, given, options = CASES[name]
    bounds = {"max_model_len": CONTEXT, "max_num_seqs": 8, "max_num_batched_tokens": BATCH}
    plugins = ("dsa_doctor",) if options.backend == OURS.backend and config["model_type"] == "deepseek_v4" else ()
    found = kv_cache_of(release_folder("0.33.0"), capability, config, {**bounds, **given}, plugins=plugins)
    model = geometry_from_config(json.loads(json.dumps(config)), name=name, source="test")
    caches = stage_caches(model, Parallel(), 0, options, mtp="speculative_config" in given)
    caches = _without_checkpoints(caches)
    theirs = Counter((layer["block"], layer["page"]) for layer in found["layers"].values())
    ours = Counter((one.block, one.page) for one in caches if one.kind != "state")
    states = Counter(one.page for one in caches if one.kind == "state")
    assert ours + Counter({(found["block"], page): count for page, count in states.items()}) == theirs
    pool = pool_of(caches)
    assert (40 * GIB) // pool.block_bytes == found["blocks"]
    assert sorted(group.bytes for group in pool.groups) == sorted(group[1] for group in found["groups"])
    needed = pool.request_blocks(CONTEXT, found["in_flight"])
    assert found["in_flight"] == 2 * BATCH
    assert found["blocks"] / needed == pytest.approx(found["concurrency"], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "blocks", "concurrency"),
    [
        ("V4-Flash, packed", 42853, 3.975969567637781),
        ("V4-Flash, bf16", 26843, 2.4905362776025237),
        ("V4-Flash under the plugin", 26843, 2.4905362776025237),
        ("V4.1-Flash, packed", 367317, 18.3621775644871),
        ("V4.1-Flash, bf16", 115864, 11.291686970080889),
        ("GLM-5.3-Flash as at TP8", 5751, 3.4896844660194173),
        ("GLM-5.3-Flash as at TP4", 3201, 3.4793478260869564),
        ("GLM-5.3-Flash, fp8", 6215, 6.755434782608695),
        ("GLM-5.3-Flash on 12.0", 3875, 4.685610640870617),
    ],
)
def test_blocks_and_concurrency_are_what_vllm_0_33_gave(name, blocks, concurrency):
    """The figures of the slow test above, written down: 40 GiB for requests of 1,048,576 tokens."""
    config, _, _, options = CASES[name]
    model = geometry_from_config(config, name=name, source="test")
    pool = pool_of(_without_checkpoints(stage_caches(model, Parallel(), 0, options, mtp=False)))
    assert (40 * GIB) // pool.block_bytes == blocks
    needed = pool.request_blocks(CONTEXT, 2 * BATCH)
    assert blocks / needed == pytest.approx(concurrency, rel=1e-9)
    assert pool.token_capacity(40 * GIB, CONTEXT, 2 * BATCH) == pytest.approx(concurrency * CONTEXT, rel=1e-4)
    longest = pool.longest(needed * pool.block_bytes, 2 * BATCH, CONTEXT)
    assert longest >= CONTEXT
    assert pool.longest((needed - 1) * pool.block_bytes, 2 * BATCH, CONTEXT) < longest


@pytest.mark.parametrize(
    ("name", "per_token"),
    [("GLM-5.3-Flash as at TP8", 11627), ("V4-Flash, bf16", 6250), ("V4-Flash, packed", 3915)],
)
def test_bytes_of_a_token(name, per_token):
    """11 of 45 layers hold rows of 1024 bytes and pooled keys of 33: 11,627 bytes a token, whatever the ranks."""
    config, _, _, options = CASES[name]
    model = geometry_from_config(config, name=name, source="test")
    pool = pool_of(stage_caches(model, Parallel(), 0, options, mtp=False))
    widest = max(group.bytes for group in pool.groups)
    assert widest // pool.block == per_token
    assert pool.block_bytes / widest < 1.005
