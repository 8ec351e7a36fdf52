"""Sections of every method, by the shapes that their writers document, and settings that nobody should have written."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsa_doctor.catalog.quantization import read_quantization

ROWS, COLUMNS = 256, 1024
SHAPE = (ROWS, COLUMNS)
EXPERT = "model.layers.4.mlp.experts.3.up_proj"
SHARED = "model.layers.4.mlp.shared_experts.up_proj"
QUERY = "model.layers.4.self_attn.q_b_proj"
FP8_BLOCKS = ROWS * COLUMNS + 4 * 2 * 8
MXFP4 = ROWS * COLUMNS // 2 + ROWS * COLUMNS // 32
NVFP4 = ROWS * COLUMNS // 2 + ROWS * COLUMNS // 16 + 8
BF16 = 2 * ROWS * COLUMNS


def _read(section, **config):
    return read_quantization({**config, "quantization_config": section})


def _bytes(found, module):
    form = found.format_of(module)
    return BF16 if form is None else form.size(SHAPE).high


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


@pytest.mark.parametrize(
    ("section", "config", "expected"),
    [
        (FP8, {}, (FP8_BLOCKS, FP8_BLOCKS, FP8_BLOCKS)),
        ({"quant_method": "fp8"}, {}, (ROWS * COLUMNS + 4,) * 3),
        ({"quant_method": "fp8", "activation_scheme": "static"}, {}, (ROWS * COLUMNS + 8,) * 3),
        ({**FP8, "modules_to_not_convert": ["shared_experts"]}, {}, (FP8_BLOCKS, BF16, FP8_BLOCKS)),
        ({**FP8, "ignored_layers": [], "modules_to_not_convert": ["self_attn"]}, {}, (FP8_BLOCKS, FP8_BLOCKS, BF16)),
        ({**FP8, "store_dtype": "mxfp4"}, {}, (MXFP4, FP8_BLOCKS, FP8_BLOCKS)),
        (FP8, {"model_type": "deepseek_v4"}, (MXFP4, *(ROWS * COLUMNS + 2 * 8,) * 2)),
        (FP8, {"model_type": "deepseek_v4", "expert_dtype": "fp8"}, (FP8_BLOCKS,) * 3),
        ({**FP8, "moe_quant_algo": "NVFP4"}, {"model_type": "deepseek_v4"}, (NVFP4, *(ROWS * COLUMNS + 2 * 8,) * 2)),
        ({"quant_method": "fbgemm_fp8"}, {}, (ROWS * COLUMNS + 4 * ROWS,) * 3),
        ({"quant_method": "mxfp4"}, {}, (MXFP4, BF16, BF16)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["*self_attn*"]}, {}, (NVFP4, NVFP4, BF16)),
        ({"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}, {}, (NVFP4, NVFP4, NVFP4)),
        (
            {
                "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {
                    "model.layers.4.mlp.experts": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
                    QUERY: {"quant_algo": "FP8"},
                },
            },
            {}, (NVFP4 - 4, BF16, ROWS * COLUMNS + 8),
        ),
        (
            {
                "quant_method": "quark", "exclude": ["*self_attn*"],
                "global_quant_config": {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}},
                "layer_quant_config": {
                    "*shared_experts*": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}
                },
            },
            {}, (MXFP4, ROWS * COLUMNS + 4, BF16),
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["self_attn"]},
            {}, (ROWS * COLUMNS + 4 * ROWS, ROWS * COLUMNS + 4 * ROWS, BF16),
        ),
        (
            {"quant_method": "gptq", "bits": 3, "group_size": 128},
            {}, (ROWS * 4 * 96 + 2 * 8 * ROWS + 4 * 8 * 24 + 4 * COLUMNS,) * 3,
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": -1, "modules_in_block_to_quantize": [["mlp.experts"]]},
            {}, (ROWS * COLUMNS // 2 + 2 * ROWS + 4 * 32 + 4 * COLUMNS, BF16, BF16),
        ),
    ],
)  # fmt: skip
def test_a_section_gives_each_module_its_bytes(section, config, expected):
    found = _read(section, **config)
    assert found.problems == ()
    assert tuple(_bytes(found, module) for module in (EXPERT, SHARED, QUERY)) == expected


@pytest.mark.parametrize("wrapper", ["model.", "model.language_model.", "language_model.model."])
def test_a_multimodal_wrapper_may_stand_before_the_layers(wrapper):
    found = _read({**FP8, "modules_to_not_convert": [f"{wrapper}layers.4.self_attn.q_b_proj"]})
    assert _bytes(found, QUERY) == BF16
    assert _bytes(found, "model.layers.14.self_attn.q_b_proj") == FP8_BLOCKS


@pytest.mark.parametrize("method", ["hqq", "exl3", "novel", "gguf", "torchao", "vptq"])
def test_a_method_that_is_not_known_is_a_range_and_never_bf16(method):
    found = _read({"quant_method": method})
    form = found.format_of(EXPERT)
    size = form.size(SHAPE)
    assert size.low < BF16 / 8
    assert size.high >= BF16
    assert not form.is_known
    assert found.uncertain


@pytest.mark.parametrize(
    ("section", "bits"),
    [
        ({"quant_method": "exl3", "bits": 3.5}, 3.5), ({"quant_method": "hqq", "nbits": 2}, 2),
        ({"quant_method": "novel", "load_in_4bit": True}, 4), ({"quant_method": "int8_something"}, 8),
    ],
)  # fmt: skip
def test_a_hint_of_the_bits_narrows_the_experts(section, bits):
    size = _read(section).format_of(EXPERT).size(SHAPE)
    assert size.low == ROWS * COLUMNS * bits / 8
    assert size.high == ROWS * COLUMNS * (bits + 1.5) / 8


def test_a_section_without_a_method_is_said_to_lack_one():
    found = _read({"something": 1})
    assert "neither quant_method nor quant_algo" in found.problems[0]
    assert not found.format_of(EXPERT).is_known


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": {}}])
def test_a_model_without_a_section_is_not_quantised(config):
    assert read_quantization(config) is None


def test_methods_that_quantise_while_loading_leave_the_checkpoint_alone():
    assert _read({"quant_method": "experts_int8"}) is None


def test_modelopt_without_its_exclusions_is_uncertain():
    found = _read({"quant_method": "modelopt", "quant_algo": "NVFP4"})
    assert found.uncertain
    assert found.format_of(EXPERT).is_known
    assert not found.format_of(QUERY).is_known


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"quant_method": "awq", "bits": "four", "group_size": 128}, "bits is 'four'; accepted: whole numbers"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0.5}, "group_size is '0.5'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": 2}, "desc_act is '2'; accepted: true or"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:(": {}}}, "dynamic holds '+:('"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:x": 3}}, "dynamic.+:x is '3'"),
        ({**FP8, "weight_block_size": [0, 128]}, "weight_block_size is '[0, 128]'; accepted: two positive"),
        ({**FP8, "weight_block_size": 128}, "weight_block_size is '128'"),
        ({**FP8, "modules_to_not_convert": [7]}, "modules_to_not_convert holds '7'"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quantized_layers is empty"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": 1}}, "config_groups.a is '1'"),
        ({"quant_method": "auto-round", "bits": 4, "extra_config": {"x": 1}}, "extra_config.x is '1'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(section, said):
    assert any(said in one for one in _read(section).problems)


_KEYS = st.sampled_from(
    [
        "quant_method", "quant_algo", "bits", "w_bit", "group_size", "config_groups", "ignore", "dynamic",
        "quantization", "modules_to_not_convert", "weight_block_size", "exclude_modules", "quantized_layers", "weights",
        "targets", "extra_config", "num_bits", "strategy", "global_quant_config", "weight", "layer_quant_config",
        "format",
    ]
)  # fmt: skip
_METHODS = st.sampled_from(
    ["fp8", "awq", "gptq", "compressed-tensors", "modelopt", "quark", "bitsandbytes", "auto-round", "mxfp4", "novel"]
)
_LEAVES = (
    st.none() | st.booleans() | st.integers(-(10**19), 10**19) | st.floats(allow_nan=True) | st.text(max_size=12)
    | _METHODS | st.sampled_from(["re:(a*)*b", "re:[", "*", "Linear", "NVFP4", "MIXED_PRECISION", "-:x", "group"])
)  # fmt: skip
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(max_size=6), inner, max_size=5)
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(method=_METHODS, section=st.dictionaries(_KEYS, _JSON, max_size=6), model_type=st.text(max_size=12))
def test_any_section_is_read_and_counted_in_bounded_time(method, section, model_type):
    start = time.monotonic()
    found = _read({**section, "quant_method": method}, model_type=model_type)
    if found is not None:
        for module in (EXPERT, SHARED, QUERY):
            form = found.format_of(module)
            if form is not None:
                size = form.size(SHAPE)
                assert 0 <= size.low <= size.high
    assert time.monotonic() - start < 5


_EXPERT_PATTERNS = st.sampled_from(
    [
        r"re:.*mlp\.experts\.\d+\.(gate|up)_proj$", r"re:.*experts\.\d\.", r"re:.*experts\.[0-7]\..*",
        r"re:.*\.1[0-9]\.",
        r"re:.*layers\.(3|4|1\d)\.mlp\.experts\.\d+\..*", r"re:.*layers\.4\..*", r"re:.*experts\.\d{2}\..*",
        r"re:.*experts\.(\d+)\.up_proj", r"re:.*experts\.[^.]+\.down_proj", "model.layers.4.mlp.experts.9.up_proj",
        r"re:.*experts\..*", r"re:model\.layers\.4\.mlp\.experts\.1\d\.up_proj", r"re:.*4.*",
    ]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(ignore=st.sets(_EXPERT_PATTERNS, max_size=4), layer=st.sampled_from([3, 4, 14]))
def test_experts_are_alike_where_no_pattern_tells_them_apart(ignore, layer):
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}, "format": "pack-quantized"}
    section = {"quant_method": "compressed-tensors", "config_groups": {"a": group}, "ignore": sorted(ignore)}
    found = _read(section)
    formats = {found.format_of(f"model.layers.{layer}.mlp.experts.{number}.up_proj") for number in range(32)}
    assert len(formats) == 1 or found.names_expert_numbers()
