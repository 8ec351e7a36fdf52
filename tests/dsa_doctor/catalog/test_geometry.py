import json
from pathlib import Path

import pytest

from dsa_doctor.catalog.bounds import ConfigError
from dsa_doctor.catalog.geometry import geometry_from_config, geometry_from_file
from dsa_doctor.catalog.models import KNOWN_MODELS, find_model

MINIMAL = {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "hidden_size": 64,
    "vocab_size": 100,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "index_topk": 128,
}


def geometry(**changes):
    return geometry_from_config({**MINIMAL, **changes}, name="tiny", source="test")


def test_head_size_is_latent_plus_rope():
    assert geometry().head_size == 576
    assert geometry(qk_rope_head_dim=0).head_size == 512


def test_a_model_without_index_topk_uses_no_dsa():
    assert geometry().uses_dsa
    assert not geometry(index_topk=None).uses_dsa
    assert not geometry(index_topk=0).uses_dsa


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"])
@pytest.mark.parametrize("value", [None, "61", 1.5, True, [1]])
def test_a_bad_number_names_its_key(key, value):
    with pytest.raises(ConfigError, match=key):
        geometry(**{key: value})


def test_text_config_of_a_multimodal_model_is_looked_into():
    wrapped = {"architectures": ["Glm5NextForConditionalGeneration"], "model_type": "glm5_next", "text_config": MINIMAL}
    found = geometry_from_config(wrapped, name="wrapped", source="test")
    assert found.architecture == "Glm5NextForConditionalGeneration"
    assert found.index_topk == 128
    assert found.refusal == "glm5_next"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}, "fp8"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": None}, None),
        ({"quant_method": "fp8", "kv_cache_quant_algo": None}, None),
        ("not a dict", None),
    ],
)
def test_forced_kv_cache_dtype(settings, expected):
    assert geometry(quantization_config=settings).kv_cache_quantization == expected


# transformers' own configuration class is the oracle for the layers that share a selection.
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"index_topk_freq": 4, "index_skip_topk_offset": 3},
        {"index_topk_freq": 4, "index_skip_topk_offset": 2},
        {"index_topk_freq": 1},
        {"index_topk_pattern": "FSSFSSFSSFSSF"},
        {"indexer_types": ["full", "shared"] * 6 + ["full"]},
    ],
    ids=str,
)
def test_shared_indexer_layers_agree_with_transformers(settings):
    transformers = pytest.importorskip("transformers")
    config = transformers.GlmMoeDsaConfig(num_hidden_layers=13, **settings)
    assert geometry(num_hidden_layers=13, **settings).shared_indexer_layers == config.indexer_types.count("shared")


@pytest.mark.parametrize("known", KNOWN_MODELS, ids=lambda known: known.name)
def test_catalog_agrees_with_the_defaults_of_transformers(known):
    transformers = pytest.importorskip("transformers")
    classes = {
        "glm_moe_dsa": transformers.GlmMoeDsaConfig,
        "deepseek_v32": transformers.DeepseekV32Config,
        "glm5_next": transformers.models.glm5_next.Glm5NextTextConfig,
    }
    found = known.geometry()
    oracle = classes[found.model_type]()
    for key in [
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "vocab_size",
        "kv_lora_rank",
        "qk_rope_head_dim",
        "qk_nope_head_dim",
        "v_head_dim",
        "q_lora_rank",
        "index_topk",
        "index_n_heads",
        "index_head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "n_shared_experts",
    ]:
        assert getattr(found, key) == getattr(oracle, key), key
    assert found.source
    assert found.uses_dsa


def test_glm_5_2_shares_57_of_78_layers():
    assert find_model("GLM-5.2").geometry().shared_indexer_layers == 57


@pytest.mark.parametrize("text", ["glm-5-fp8", "ZAI-ORG/GLM-5-FP8", " GLM-5-FP8 "])
def test_names_ignore_case(text):
    assert find_model(text).name == "GLM-5-FP8"


def test_folder_with_hf_quant_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MINIMAL))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"kv_cache_quant_algo": "FP8"}}))
    assert geometry_from_file(tmp_path).kv_cache_quantization == "fp8"
    assert geometry_from_file(tmp_path / "config.json").kv_cache_quantization == "fp8"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "list, not a JSON object"),
        (b"\xfe\xfe", "cannot be read"),
        (b"", "is empty"),
        (b"{}", "whole number"),
        (b"GGUF\3\0\0\0", "it is a GGUF file, not text"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"num_hidden_layers": 4, "num_hidden_layers": 5}', "num_hidden_layers.* stands twice"),
        (b'{"num_hidden_layers": 1' + b"0" * 5000 + b"}", "larger than 64 bits hold"),
    ],
)
def test_unreadable_config_names_the_file(tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        geometry_from_file(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_config_as_other_systems_save_it(tmp_path, encoding):
    text = json.dumps({**MINIMAL, "time_step_limit": [0.0, float("inf")]})
    (tmp_path / "config.json").write_bytes(text.encode(encoding))
    assert geometry_from_file(tmp_path).num_hidden_layers == MINIMAL["num_hidden_layers"]


def test_a_config_that_never_ends_is_refused():
    with pytest.raises(ConfigError, match=r"/dev/zero: cannot be read \(it is a device"):
        geometry_from_file(Path("/dev/zero"))


def test_a_checkpoint_of_gigabytes_in_place_of_a_config_is_named(tmp_path):
    file = tmp_path / "model.gguf"
    with file.open("wb") as stream:
        stream.write(b"GGUF")
        stream.truncate(1 << 40)
    with pytest.raises(ConfigError, match="it is a GGUF file"):
        geometry_from_file(file)


def test_missing_config(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        geometry_from_file(tmp_path)
