"""Headers of safetensors files: real files by the safetensors library, and files that lie."""

import json
import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model
from dsa_doctor.planner import Hardware, HeaderError, Parallel, PlanOptions, checkpoint_of, plan, stored_tensors
from dsa_doctor.planner.headers import StoredTensor, read_header
from dsa_doctor.planner.parallel import part_bytes, stage_weights
from dsa_doctor.planner.storage import stored_size

GIB = 2**30
CONFIG = {
    **find_model("GLM-5.2").config, "num_hidden_layers": 5, "hidden_size": 256, "vocab_size": 512, "q_lora_rank": 128,
    "num_attention_heads": 8, "index_n_heads": 4, "intermediate_size": 512, "moe_intermediate_size": 256,
    "n_routed_experts": 4, "first_k_dense_replace": 2, "index_topk_freq": 2,
}  # fmt: skip
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def _model(config):
    return geometry_from_config(config, name="tiny", source="test")


def _write_checkpoint(folder, config):
    """Write the model's weights as real safetensors files, in two shards with an index."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    model = _model(config)
    tensors = {}
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=True):
        prefix = "model." if layer is None else f"model.layers.{layer}."
        names = [f"mlp.experts.{one}.{weight.name.removeprefix('mlp.experts.')}" for one in range(weight.copies)]
        names = names if weight.sharding == "experts" else [weight.name]
        for name in names:
            full = name if name.startswith("lm_head") else prefix + name
            quantised = model.quantization == "fp8" and weight.kind == "linear"
            dtype = torch.float8_e4m3fn if quantised else torch.float32 if weight.kind == "float32" else torch.bfloat16
            tensors[full] = torch.zeros(weight.shape, dtype=dtype)
            if quantised:
                blocks = [-(-side // 128) for side in weight.shape]
                tensors[full.replace(".weight", ".weight_scale_inv")] = torch.zeros(blocks)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        safetensors.save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.parametrize("config", [CONFIG, {**CONFIG, **FP8}], ids=["bf16", "fp8"])
def test_a_plan_from_the_files_is_the_plan_from_the_configuration(tmp_path, config):
    size = _write_checkpoint(tmp_path, config)
    model = _model(config)
    checkpoint = checkpoint_of(stored_tensors(tmp_path), model)
    assert checkpoint.unrecognised == ()
    assert checkpoint.disk_bytes == size
    hardware = Hardware(name="NVIDIA A100", gpus_per_node=2, nodes=2, memory_bytes=8 * GIB)
    for parallel in (Parallel(), Parallel(tensor=2, pipeline=2), Parallel(tensor=2, data=2, expert=True)):
        for mtp in (False, True):
            options = PlanOptions(parallel=parallel, mtp=mtp, max_num_seqs=4)
            assert plan(model, hardware, options, checkpoint).lines == plan(model, hardware, options).lines
    assert plan(model, hardware, PlanOptions(parallel=Parallel()), checkpoint).disk_bytes == size


def test_drafting_without_an_mtp_layer_is_refused(tmp_path):
    _write_checkpoint(tmp_path, {**CONFIG, "num_nextn_predict_layers": 0})
    model = _model(CONFIG)
    checkpoint = checkpoint_of(stored_tensors(tmp_path), model)
    hardware = Hardware(name="NVIDIA A100", gpus_per_node=1, memory_bytes=80 * GIB)
    options = PlanOptions(parallel=Parallel(), mtp=True, max_num_seqs=4)
    found = plan(model, hardware, options, checkpoint)
    assert found.fits is False
    assert "the checkpoint has no layer 5 to draft with" in found.problems[0]
    assert plan(model, hardware, options.model_copy(update={"mtp": False}), checkpoint).fits is True
    assert plan(model, hardware, options).fits is True, "the configuration alone does not tell"


@pytest.mark.parametrize(
    ("name", "mtp_prefix"),
    [("DeepSeek-V4-Flash-0731", "mtp."), ("DeepSeek-V4.1-Flash", "mtp."), ("GLM-5.3-Flash-BF16", None)],
)
def test_a_hybrid_checkpoint_is_sorted_by_its_own_names(name, mtp_prefix):
    """DeepSeek names layers without `model.` and counts its draft layers apart; GLM's lie in a multimodal wrapper."""
    model = find_model(name).geometry()
    tensors = []
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=True):
        wrapper = "" if mtp_prefix else "model.language_model."
        if layer is None:
            full = weight.name if weight.name.startswith("lm_head") else wrapper + weight.name
        elif mtp_prefix and layer >= model.num_hidden_layers:
            full = f"{mtp_prefix}{layer - model.num_hidden_layers}.{weight.name}"
        else:
            full = f"{wrapper}layers.{layer}.{weight.name}"
        full = full.replace("language_model.visual", "visual").replace(".experts.", ".experts.3.")
        size = stored_size(weight, model, layer=layer).high
        tensors.append(StoredTensor(name=full, dtype="U8", shape=weight.shape, bytes=size))
    checkpoint = checkpoint_of(tensors, model)
    assert checkpoint.unrecognised == ()
    assert checkpoint.disk_bytes == sum(one.bytes for one in tensors)
    for parallel in (Parallel(tensor=8), Parallel(tensor=4, data=2, expert=True)):
        counted = part_bytes(model, parallel, 0, mtp=True)
        found = checkpoint.part_bytes(model, parallel, 0, mtp=True)
        assert found.keys() == counted.keys()
        for part, size in counted.items():
            assert found[part] == pytest.approx(size, rel=0.02), part


def test_unknown_tensors_are_named_and_counted_as_replicated(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {"model.layers.1.self_attn.novelty.weight": torch.zeros(7, 3), "vision.patch": torch.zeros(11)}
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = checkpoint_of(stored_tensors(tmp_path), _model(CONFIG))
    assert set(checkpoint.unrecognised) == set(tensors)
    parts = checkpoint.part_bytes(_model(CONFIG), Parallel(tensor=4), 0, mtp=False)
    assert sum(parts.values()) == (21 + 11) * 4


def _file(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({"a": GOOD}, b"1234", None),
        ({"a": GOOD}, b"123456789", None),
        ({"a": {**GOOD, "shape": [3]}}, b"12345678", None),
        ({"a": {**GOOD, "shape": [-2]}}, b"12345678", None),
        ({"a": {**GOOD, "shape": [True]}}, b"12345678", None),
        ({"a": {**GOOD, "shape": [2**59, 2**59]}}, b"12345678", None),
        ({"a": {**GOOD, "shape": "x"}}, b"12345678", None),
        ({"a": {**GOOD, "data_offsets": [8, 0]}}, b"12345678", None),
        ({"a": {**GOOD, "data_offsets": [0]}}, b"12345678", None),
        ({"a": {**GOOD, "dtype": None}}, b"12345678", None),
        ({"a": 5}, b"12345678", None),
        ([1, 2], b"", None),
        (b"{", b"", None),
        (b"[" * 100_000, b"", None),
        (b"\xff\xfe", b"", None),
        ({"a": GOOD}, b"12345678", 2**63),
        ({"a": GOOD}, b"12345678", 10_000),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, data, length):
    with pytest.raises(HeaderError, match=r"x\.safetensors"):
        list(read_header(_file(tmp_path / "x.safetensors", header, data, length)))


def test_a_good_header_is_read(tmp_path):
    file = _file(tmp_path / "x.safetensors", {"__metadata__": {"a": "b"}, "a": GOOD}, b"12345678")
    assert [(one.name, one.dtype, one.shape, one.bytes) for one in read_header(file)] == [("a", "F32", (2,), 8)]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", ".x.safetensors", ""])
def test_an_index_cannot_name_files_outside_its_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(HeaderError, match="outside the folder"):
        stored_tensors(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(HeaderError, match=r"gone\.safetensors: cannot be read"):
        stored_tensors(tmp_path)


def test_a_folder_without_safetensors_holds_nothing(tmp_path):
    assert stored_tensors(tmp_path) == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    try:
        tensors = list(read_header(file))
    except HeaderError:
        return
    assert sum(one.bytes for one in tensors) <= len(content)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
         'the key "a" stands twice'),
        (b"[" * 200_000, "nested deeper than 100 levels"),
        (b'{"a":' + b"9" * 5000 + b"}", "larger than 64 bits hold"),
        (b"[" + b"1," * 8_000_001 + b"1]", "holds more than 8000000 values"),
    ],
)  # fmt: skip
def test_a_header_that_costs_memory_or_means_two_things_is_refused(tmp_path, header, said):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"x")
    with pytest.raises(HeaderError, match=said):
        stored_tensors(tmp_path)


def test_a_named_pipe_among_the_files_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(HeaderError, match=r"a\.safetensors: not a file"):
        stored_tensors(tmp_path)
