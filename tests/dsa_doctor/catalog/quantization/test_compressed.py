"""compressed-tensors: the library itself compresses a small model, and the bytes and the matches must be its own."""

import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsa_doctor.catalog.quantization import read_quantization

torch = pytest.importorskip("torch")
compressed_tensors = pytest.importorskip("compressed_tensors")

ROWS, COLUMNS = 48, 192
NAMES = (
    "model.layers.0.self_attn.q_a_proj",
    "model.layers.0.self_attn.indexer.wk",
    "model.layers.0.mlp.down_proj",
    "model.layers.1.mlp.experts.0.up_proj",
    "model.layers.1.mlp.experts.1.up_proj",
    "model.layers.1.mlp.experts.1.down_proj",
    "model.layers.1.mlp.shared_experts.down_proj",
    "model.layers.11.mlp.experts.0.up_proj",
    "lm_head",
)


def _model():
    """A tree of linear modules with the names of a DSA model."""
    root = torch.nn.Module()
    for name in NAMES:
        parent = root
        *parts, last = name.split(".")
        for part in parts:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, torch.nn.Linear(COLUMNS, ROWS, bias=False, dtype=torch.bfloat16))
    return root


def _compressed_sizes(section):
    """Return the bytes of each module as the library stores it."""
    from compressed_tensors.compressors import compress_module
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    model = _model()
    config = QuantizationConfig.model_validate({**section, "quantization_status": "frozen"})
    apply_quantization_config(model, config)
    sizes = {}
    for name in NAMES:
        module = model.get_submodule(name)
        for parameter, value in module.named_parameters(recurse=False):
            if parameter.endswith("scale"):
                value.data.fill_(1)
            if parameter.endswith("g_idx"):
                value.data.copy_(torch.zeros_like(value))
        with torch.compiler.set_stance("force_eager"):  # compiling what packs FP4 takes 20 s, packing it nothing
            compress_module(module)
        state = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        sizes[name] = sum(one.numel() * one.element_size() for one in state)
    return sizes


def _our_sizes(section):
    found = read_quantization({"quantization_config": section, "dtype": "bfloat16"})
    assert found.problems == ()
    plain = ROWS * COLUMNS * 2
    forms = {name: found.format_of(name) for name in NAMES}
    assert all(form is None or form.is_known for form in forms.values())
    return {name: plain if form is None else form.size((ROWS, COLUMNS)).high for name, form in forms.items()}


def _section(weights, *, targets=("Linear",), ignore=(), form=None, inputs=None):
    group = {"targets": list(targets), "weights": weights, "input_activations": inputs, "format": form}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
        "quantization_status": "compressed",
        "format": form or "mixed-precision",
    }


INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64}
DYNAMIC_FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
STATIC_INT8 = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "tensor", "dynamic": False}
NVFP4_INPUT = {
    "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16, "dynamic": "local",
}  # fmt: skip
MXFP = {"type": "float", "symmetric": True, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}

SECTIONS = {
    "W4A16": _section(INT4, form="pack-quantized"),
    "W4A16 asymmetric": _section({**INT4, "symmetric": False}, form="pack-quantized"),
    "W4A16 with an order of columns": _section({**INT4, "actorder": "group"}, form="pack-quantized"),
    "W4A16 with a static order": _section({**INT4, "actorder": "static"}, form="pack-quantized"),
    "W8A16 a channel": _section({"num_bits": 8, "type": "int", "strategy": "channel"}, form="pack-quantized"),
    "W3A16": _section({**INT4, "num_bits": 3}, form="pack-quantized"),
    "W4A8": _section(INT4, form="pack-quantized", inputs=DYNAMIC_FP8),
    "W8A8 int, static activations": _section(
        {"num_bits": 8, "type": "int", "strategy": "channel"}, form="int-quantized", inputs=STATIC_INT8
    ),
    "FP8 dynamic": _section(
        {"num_bits": 8, "type": "float", "strategy": "channel"}, form="float-quantized", inputs=DYNAMIC_FP8
    ),
    "FP8 in blocks": _section(
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}, form="float-quantized"
    ),
    "NVFP4": _section(
        {**NVFP4_INPUT, "dynamic": False, "scale_dtype": "torch.float8_e4m3fn"},
        form="nvfp4-pack-quantized", inputs=NVFP4_INPUT,
    ),
    "NVFP4 weights only": _section({**NVFP4_INPUT, "dynamic": False}, form="nvfp4-pack-quantized"),
    "MXFP4": _section({**MXFP, "num_bits": 4}, form="mxfp4-pack-quantized"),
    "MXFP8": _section({**MXFP, "num_bits": 8}, form="mxfp8-quantized"),
    "no format, int": _section(INT4),
    "no format, activations": _section(INT4, inputs=DYNAMIC_FP8),
    "no format, mxfp8": _section({**MXFP, "num_bits": 8}),
    "experts only": _section(INT4, targets=(r"re:.*mlp\.experts\.\d+\..*",), form="pack-quantized"),
    "one name": _section(INT4, targets=("model.layers.1.mlp.experts.1.up_proj",), form="pack-quantized"),
    "ignored by name and by expression": _section(
        INT4, ignore=("lm_head", r"re:.*indexer\.", "model.layers.1.mlp.experts.1.down_proj"), form="pack-quantized"
    ),
    "an expression is matched from the start": _section(
        INT4, ignore=("re:mlp", r"re:layers\.0", "re:model.layers.1"), form="pack-quantized"
    ),
    "a part of a name is no match": _section(INT4, ignore=("down_proj", "model.layers.1"), form="pack-quantized"),
}  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_the_library_stores_as_many_bytes(section):
    assert _our_sizes(section) == _compressed_sizes(json.loads(json.dumps(section)))


def test_several_groups_are_told_apart():
    section = _section(INT4, ignore=["lm_head"])
    section["config_groups"]["group_0"]["format"] = "pack-quantized"
    section["config_groups"]["group_1"] = {
        "targets": [r"re:.*self_attn\..*_proj$", "model.layers.0.mlp.down_proj"],
        "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
        "format": "pack-quantized",
    }
    ours = _our_sizes(section)
    assert ours == _compressed_sizes(section)
    assert ours["model.layers.0.self_attn.q_a_proj"] > ours["model.layers.1.mlp.experts.0.up_proj"]


@st.composite
def _weights(draw):
    kind = draw(st.sampled_from(["int", "float"]))
    if kind == "float":
        strategy = draw(st.sampled_from(["tensor", "channel", "block"]))
        bits, form = 8, draw(st.sampled_from([None, "float-quantized", "naive-quantized"]))
    else:
        strategy = draw(st.sampled_from(["channel", "group"]))
        bits = draw(st.integers(2, 8))
        form = draw(st.sampled_from([None, "pack-quantized", "int-quantized"]))
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": draw(st.booleans())}
    if kind == "float":
        weights["symmetric"] = True
    if strategy == "group":
        weights["group_size"] = draw(st.sampled_from([16, 32, 64, 96, 192]))
        weights["actorder"] = draw(st.sampled_from([None, "group", "weight"]))
    if strategy == "block":
        weights["block_structure"] = draw(st.sampled_from([[16, 32], [64, 64], [48, 192]]))
    return weights, form


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=_weights(), ignore=st.sets(st.sampled_from([*NAMES, r"re:.*experts\.1\.", r"re:.*layers\.1\..*"])))
def test_any_sound_weights_take_the_bytes_that_the_library_writes(drawn, ignore):
    weights, form = drawn
    section = _section(weights, ignore=sorted(ignore), form=form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert _our_sizes(section) == _compressed_sizes(section)


def test_weights_that_were_never_compressed_have_the_dtype_of_the_model():
    section = {**_section(INT4, form="pack-quantized"), "quantization_status": "frozen"}
    found = read_quantization({"quantization_config": section})
    assert found.format_of(NAMES[0]) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_bits": 400}, "weights.num_bits is '400'; accepted: whole numbers from 1 to 32"),
        ({"num_bits": "4"}, "weights.num_bits is '4'"),
        ({"group_size": -5}, "weights.group_size is '-5'"),
        ({"group_size": None}, "strategy is 'group' with group_size None"),
        ({"strategy": "spiral"}, "strategy is 'spiral'"),
        ({"type": "complex"}, "type is 'complex'; accepted: int or float"),
        ({"num_bits": 16}, "num_bits is 16; pack-quantized holds 1 to 8"),
    ],
)
def test_weights_that_make_no_sense_are_named_and_not_counted_as_known(change, said):
    section = _section({**INT4, **change}, form="pack-quantized")
    found = read_quantization({"quantization_config": section})
    assert any(said in one for one in found.problems), found.problems
    assert not found.format_of(NAMES[0]).is_known


def test_an_expression_that_could_take_for_ever_is_refused():
    section = _section(INT4, ignore=["re:(a+)+$", "re:(", "re:" + "x" * 3000, 7], form="pack-quantized")
    found = read_quantization({"quantization_config": section})
    assert len(found.problems) == 4


def test_older_checkpoints_nest_the_section():
    section = _section(INT4, form="pack-quantized")
    plain = read_quantization({"quantization_config": section})
    assert read_quantization({"compression_config": {"quantization_config": section}}) == plain
    assert read_quantization({"text_config": {"quantization_config": section}}) == plain
