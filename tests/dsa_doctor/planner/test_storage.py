"""Properties of quantised sizes: parts and whole, fewer bits, more modules left alone."""

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model
from dsa_doctor.planner import Parallel
from dsa_doctor.planner.checkpoint import configured_size
from dsa_doctor.planner.parallel import part_bytes, stage_weights
from dsa_doctor.planner.storage import resident_bytes, storage_of, stored_size
from tests.dsa_doctor.planner.quantised import compressed_tensors

CONFIG = {
    **find_model("GLM-5.2").config, "num_hidden_layers": 6, "n_routed_experts": 8, "first_k_dense_replace": 2,
    "hidden_size": 1024, "vocab_size": 512, "moe_intermediate_size": 256, "intermediate_size": 512, "q_lora_rank": 256,
}  # fmt: skip
IGNORABLE = (
    "re:.*self_attn.*", "re:.*indexer.*", "re:.*shared_experts.*", r"re:.*layers\.6\..*", "re:.*down_proj",
    "model.layers.3.mlp.experts.5.up_proj", "model.layers.0.mlp.gate_proj", r"re:.*experts\.[0-3]\..*",
)  # fmt: skip


def _model(section, **changes):
    return geometry_from_config({**CONFIG, **changes, "quantization_config": section}, name="tiny", source="test")


def _weights(bits, group_size, symmetric):
    return {
        "num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group_size, "strategy": "group",
    }  # fmt: skip


checkpoints = st.tuples(st.integers(2, 8), st.sampled_from([16, 32, 64, 128, 256]), st.booleans())
ignored = st.sets(st.sampled_from(IGNORABLE))


@settings(max_examples=40, deadline=None)
@given(weights=checkpoints, ignore=ignored)
def test_the_parts_on_one_gpu_are_the_checkpoint(weights, ignore):
    model = _model(compressed_tensors(_weights(*weights), ignore=sorted(ignore | {"re:.*indexer.*"})))
    whole = configured_size(model, mtp=False)
    assert sum(part_bytes(model, Parallel(), 0, mtp=False).values()) >= whole.high
    if not any("experts.5" in one or "[0-3]" in one for one in ignore):
        assert sum(part_bytes(model, Parallel(), 0, mtp=False).values()) == whole.high
    listed = list(stage_weights(model, Parallel(), 0, mtp=False))
    assert sum(stored_size(one, model, layer=layer).high for layer, one in listed) == whole.high


@settings(max_examples=40, deadline=None)
@given(weights=checkpoints, ignore=ignored, fewer=st.integers(2, 8))
def test_fewer_bits_never_take_more(weights, ignore, fewer):
    bits, *rest = weights
    sizes = [
        configured_size(_model(compressed_tensors(_weights(one, *rest), ignore=sorted(ignore))))
        for one in (min(bits, fewer), max(bits, fewer))
    ]
    assert sizes[0].low <= sizes[1].low
    assert sizes[0].high <= sizes[1].high


@settings(max_examples=40, deadline=None)
@given(weights=checkpoints, ignore=ignored, more=ignored)
def test_leaving_more_modules_alone_never_shrinks_a_checkpoint(weights, ignore, more):
    sizes = [
        configured_size(_model(compressed_tensors(_weights(*weights), ignore=sorted(one))))
        for one in (ignore, ignore | more)
    ]
    assert sizes[0].high <= sizes[1].high


@settings(max_examples=20, deadline=None)
@given(weights=checkpoints, ranks=st.sampled_from([2, 4, 8]))
def test_slices_together_are_at_least_the_whole(weights, ranks):
    model = _model(compressed_tensors(_weights(*weights), ignore=[]))
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=False):
        if weight.sharding not in ("tensor", "experts") or weight.shape[0] % ranks:
            continue
        slice_ = (weight.shape[0] // ranks, *weight.shape[1:])
        whole = resident_bytes(weight, weight.shape, model, layer=layer)
        assert ranks * resident_bytes(weight, slice_, model, layer=layer) >= whole


def test_experts_that_differ_are_counted_one_by_one():
    section = compressed_tensors(_weights(4, 128, True), ignore=["model.layers.3.mlp.experts.5.up_proj"])
    plain = compressed_tensors(_weights(4, 128, True), ignore=[])
    grown = configured_size(_model(section)).high - configured_size(_model(plain)).high
    shape = (CONFIG["moe_intermediate_size"], CONFIG["hidden_size"])
    packed = prod(shape) // 2 + 2 * prod(shape) // 128 + 16
    assert grown == 2 * prod(shape) - packed


@pytest.mark.parametrize(
    ("targets", "name"),
    [((r"re:.*mlp\.experts\..*",), "int4"), ((r"re:.*self_attn\.o_proj",), "int4"), (("nothing",), "bf16")],
)
def test_the_name_is_that_of_what_is_quantised(targets, name):
    storage = storage_of(_model(compressed_tensors(_weights(4, 128, True), ignore=[], targets=targets)))
    assert (storage.name, storage.label) == (name, "exact")


def test_two_formats_are_both_named():
    section = compressed_tensors(_weights(4, 128, True), ignore=[])
    section["config_groups"]["group_1"] = {
        "targets": [r"re:.*self_attn\..*", r"re:.*shared_experts\..*", r"re:model\.layers\.[01]\..*"],
        "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
        "format": "pack-quantized",
    }
    assert storage_of(_model(section)).name == "int8", "int4 has less than a tenth of eight small experts"
    assert storage_of(_model(section, n_routed_experts=128)).name == "int4 and int8"
