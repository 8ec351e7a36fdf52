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
    assert found.family == "glm5_next"


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


LIKE_THE_CLASS = [one for one in KNOWN_MODELS if "V4-Pro" not in one.name and "V4.1" not in one.name]
"""Models whose numbers are the defaults of a class of transformers; the others' are checked against their payloads."""


@pytest.mark.parametrize("known", LIKE_THE_CLASS, ids=lambda known: known.name)
def test_catalog_agrees_with_the_defaults_of_transformers(known):
    transformers = pytest.importorskip("transformers")
    classes = {
        "glm_moe_dsa": transformers.GlmMoeDsaConfig,
        "deepseek_v32": transformers.DeepseekV32Config,
        "glm5_next": transformers.models.glm5_next.Glm5NextTextConfig,
        "deepseek_v4": transformers.DeepseekV4Config,
    }
    found = known.geometry()
    oracle = classes[found.model_type]()
    v4_alone = ["head_dim", "num_experts_per_tok"]
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
        if found.compression is None or (key != "intermediate_size" and hasattr(oracle, key)):
            assert getattr(found, key) == getattr(oracle, key), key
    if found.compression is not None:
        assert all(getattr(found, key) == getattr(oracle, key) for key in v4_alone)
        assert found.compression.window == oracle.sliding_window
        assert found.hash_layers == oracle.mlp_layer_types.count("hash_moe")
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


@pytest.mark.parametrize(
    "pattern", [[0, 0, 4, 128, 4, 128, 4], [128, 128, 4, 128, 4, 128, 4]], ids=["V4-Flash's", "V4-Pro's"]
)
def test_compression_is_read_as_transformers_reads_it(pattern):
    transformers = pytest.importorskip("transformers")
    base = {key: value for key, value in find_model("DeepSeek-V4-Flash").config.items() if key != "compress_ratios"}
    ratios = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
    oracle = transformers.DeepseekV4Config(num_hidden_layers=7, compress_ratios=list(pattern))
    for given in ({"compress_ratios": [*pattern, 0]}, {"layer_types": oracle.layer_types}):
        found = geometry_from_config({**base, "num_hidden_layers": 7, **given}, name="x", source="test")
        assert found.compression.ratios == tuple(ratios[one] for one in oracle.layer_types)
        assert found.assumed == ()
    assumed = geometry_from_config({**base, "num_hidden_layers": 7}, name="x", source="test")
    default = transformers.DeepseekV4Config(num_hidden_layers=7)
    assert assumed.compression.ratios == tuple(ratios[one] for one in default.layer_types)
    assert assumed.assumed == ("compress_ratios",)


@pytest.mark.parametrize("layers", [5, 45])
def test_linear_layers_are_those_of_transformers(layers):
    transformers = pytest.importorskip("transformers")
    oracle = transformers.models.glm5_next.Glm5NextTextConfig(num_hidden_layers=layers)
    text = {**find_model("GLM-5.3-Flash").config["text_config"], "num_hidden_layers": layers}
    for key in ("layer_types", "mlp_layer_types"):
        text.pop(key)
    config = {**find_model("GLM-5.3-Flash").config, "text_config": text}
    found = geometry_from_config(config, name="x", source="test")
    linear = [layer for layer, one in enumerate(oracle.layer_types) if one == "linear_attention"]
    assert list(found.linear_attention.layers) == linear
    assert list(found.dense_layer_ids) == [layer for layer, one in enumerate(oracle.mlp_layer_types) if one == "dense"]


@pytest.mark.parametrize("name", ["deepseek_sparse_attention", "full_attention"])
def test_sparse_layers_have_a_name_in_each_release_of_transformers(name):
    published = find_model("GLM-5.3-Flash").config
    types = published["text_config"]["layer_types"]
    text = {**published["text_config"], "layer_types": [name if one == "indexed_attention" else one for one in types]}
    found, same = (
        geometry_from_config(one, name="x", source="test") for one in ({**published, "text_config": text}, published)
    )
    assert found == same
    assert len(found.linear_attention.layers) == 34


@pytest.mark.parametrize("text", ["deepseek_v4.1_flash", "DEEPSEEK-AI/DeepSeek-V4.1-Flash", "deepseek v4.1 flash"])
def test_names_ignore_separators(text):
    assert find_model(text).name == "DeepSeek-V4.1-Flash"
