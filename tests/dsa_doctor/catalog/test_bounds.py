"""Every number that a verdict or a plan rests on has bounds; what breaks them is named, and nothing else happens."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.catalog.bounds import ConfigError
from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import KNOWN_MODELS, find_model
from dsa_doctor.planner import Hardware, Parallel, PlanOptions, plan

GLM = find_model("GLM-5.2").config
NUMBERS = sorted(key for key, value in GLM.items() if isinstance(value, int))
ODD = [-1, 10**18, 10**30, 0.5, math.nan, math.inf, "78", "", [78], {}, True]


def geometry(config):
    return geometry_from_config(config, name="odd", source="test")


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_out_of_bounds_is_named_with_what_came_and_what_is_accepted(key, value):
    with pytest.raises(ConfigError, match=rf"key '{key}' .* is .*; a whole number from .* is needed"):
        geometry({**GLM, key: value})


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size", "index_n_heads", "index_head_dim"]
)
def test_nothing_is_not_a_size(key):
    with pytest.raises(ConfigError, match=key):
        geometry({**GLM, key: 0})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"index_head_dim": 33}, "index_head_dim"),
        ({"index_head_dim": 1}, "index_head_dim"),
        ({"qk_rope_head_dim": 63}, "qk_rope_head_dim"),
        ({"indexer_types": ["full"] * 77}, "indexer_types"),
        ({"indexer_types": ["full", "half"] * 39}, "indexer_types"),
        ({"indexer_types": 7}, "indexer_types"),
        ({"index_topk_pattern": "FS"}, "index_topk_pattern"),
        ({"index_topk_pattern": 3}, "index_topk_pattern"),
        ({"index_topk_pattern": "X" * 78}, "index_topk_pattern"),
        ({"mlp_layer_types": ["dense"]}, "mlp_layer_types"),
        ({"num_experts_per_tok": 257}, "num_experts_per_tok"),
        ({"architectures": "GlmMoeDsaForCausalLM"}, "architectures"),
        ({"architectures": [7]}, "architectures"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size"),
    ],
)
def test_relations_are_checked(changes, key):
    with pytest.raises(ConfigError, match=key):
        geometry({**GLM, **changes})


@pytest.mark.parametrize(
    ("model", "changes", "key"),
    [
        ("GLM-5.3-Flash", {"layer_types": ["linear_attention"] * 44}, "layer_types"),
        ("GLM-5.3-Flash", {"layer_types": ["mamba"] * 45}, "layer_types"),
        ("GLM-5.3-Flash", {"index_kpool": 0}, "index_kpool"),
        ("GLM-5.3-Flash", {"index_kpool": 3}, "index_topk"),
        ("GLM-5.3-Flash", {"vision_config": 5}, "vision_config"),
        ("DeepSeek-V4-Flash-0731", {"compress_ratios": [4] * 42}, "compress_ratios"),
        ("DeepSeek-V4-Flash-0731", {"compress_ratios": [7] * 43}, "compress_ratios"),
        ("DeepSeek-V4-Flash-0731", {"compress_ratios": "4"}, "compress_ratios"),
        ("DeepSeek-V4-Flash-0731", {"o_groups": 7}, "o_groups"),
        ("DeepSeek-V4-Flash-0731", {"head_dim": 64}, "head_dim"),
        ("DeepSeek-V4-Flash-0731", {"q_lora_rank": 0}, "q_lora_rank"),
        ("DeepSeek-V4-Flash-0731", {"dspark_target_layer_ids": [99]}, "dspark_target_layer_ids"),
        ("DeepSeek-V4.1-Flash", {"kv_source_layer_ids": [0]}, "kv_source_layer_ids"),
        ("DeepSeek-V4.1-Flash", {"kv_source_layer_ids": [20]}, "kv_source_layer_ids"),
        ("DeepSeek-V4.1-Flash", {"compress_ratios": [4] * 43}, "compress_ratios"),
        ("DeepSeek-V4.1-Flash", {"engram_num_embeddings": [5]}, "engram_num_embeddings"),
        ("DeepSeek-V4.1-Flash", {"engram_layer_ids": [40, 1]}, "engram_layer_ids"),
    ],
)
def test_relations_of_hybrid_models_are_checked(model, changes, key):
    config = find_model(model).config
    inner = {**config, **config.get("text_config", {})}
    with pytest.raises(ConfigError, match=key):
        geometry({**{name: value for name, value in inner.items() if name != "text_config"}, **changes})


def read(config):
    """Return the geometry, or None where it is refused by a short sentence that names the key."""
    try:
        return geometry(config)
    except ConfigError as error:
        message = str(error)
    assert "key '" in message
    assert len(message) < 600
    return None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
CONFIGS = [known.config for known in KNOWN_MODELS]
KEYS = sorted({key for config in CONFIGS for key in (*config, *config.get("text_config", {}))} | {"vision_config"})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(CONFIGS), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), st.booleans())
def test_any_configuration_gives_a_geometry_and_a_plan_or_an_error_that_names_a_key(config, changes, nested):
    changed = {**config, **changes}
    if nested and isinstance(config.get("text_config"), dict):
        changed = {**config, "text_config": {**config["text_config"], **changes}}
    model = read(changed)
    if model is None:
        return
    assert model.num_hidden_layers <= 1024
    hardware = Hardware(name="NVIDIA A100 80GB", gpus_per_node=8, memory_bytes=80 << 30)
    found = plan(model, hardware, PlanOptions(parallel=Parallel(tensor=8)))
    assert sum(line.bytes for line in found.lines) + found.kv_cache_bytes == found.budget_bytes


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), VALUES, max_size=12))
def test_any_object_is_read_or_refused(config):
    read(json.loads(json.dumps(config)))
