"""What the files of a checkpoint tell: headers, an index alone, the Hub's cache, sizes that the Hub listed."""

import json

import pytest

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model
from dsa_doctor.planner import Hardware, Parallel, PlanOptions, checkpoint_at_hand, plan
from dsa_doctor.planner.checkpoint import configured_size
from dsa_doctor.planner.headers import indexed_bytes
from tests.dsa_doctor.planner.quantised import GLM52_AWQ_INT4, GLM52_W8A16

GIB = 2**30
A100S = Hardware(name="NVIDIA A100-SXM4-80GB", gpus_per_node=8, memory_bytes=80 * GIB)
TP8 = PlanOptions(parallel=Parallel(tensor=8))


def _model(section, **changes):
    config = {**find_model("GLM-5.2").config, "quantization_config": section, **changes}
    return geometry_from_config(config, name="GLM-5.2", source="test", hub_id="somebody/quantised")


def _index(folder, total, shards=("model-00001.safetensors",)):
    names = {f"tensor{number}": shard for number, shard in enumerate(shards)}
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": names})
    (folder / "model.safetensors.index.json").write_text(text)


def _weights(found):
    return sum(line.bytes for line in found.lines if line.name.startswith("weights: "))


def test_an_index_without_its_shards_tells_the_size_of_an_unknown_method(tmp_path):
    _index(tmp_path, 440_000_000_000)
    checkpoint, warnings = checkpoint_at_hand(tmp_path, _model({"quant_method": "novel"}))
    assert warnings == ()
    assert checkpoint.label == "estimated"
    found = plan(_model({"quant_method": "novel"}), A100S, TP8, checkpoint)
    assert found.disk_bytes == 440_000_000_000
    assert 0.9 < 8 * _weights(found) / 440e9 < 1.2, "replicated weights are on every GPU"
    assert found.fits is True
    assert all(line.low_bytes is None for line in found.lines)


@pytest.mark.parametrize("mtp", [False, True], ids=["without the MTP layer", "with it"])
def test_an_index_that_agrees_leaves_the_configuration_exact(tmp_path, mtp):
    model = _model(GLM52_AWQ_INT4)
    _index(tmp_path, configured_size(model, mtp=mtp).high)
    checkpoint, warnings = checkpoint_at_hand(tmp_path, model)
    assert (checkpoint.label, warnings) == ("exact", ())
    lines = {line.name: line.bytes for line in plan(model, A100S, TP8).lines}
    assert {line.name: line.bytes for line in plan(model, A100S, TP8, checkpoint).lines} == lines


def test_an_index_that_disagrees_is_believed_and_said(tmp_path):
    model = _model(GLM52_W8A16)
    _index(tmp_path, 440_000_000_000)
    checkpoint, warnings = checkpoint_at_hand(tmp_path, model)
    assert any("440 GB" in one and "config.json describes" in one for one in warnings)
    found = plan(model, A100S, TP8, checkpoint)
    assert found.fits is True
    assert next(line for line in found.lines if line.name == "weights: routed experts").label == "estimated"
    assert _weights(found) == pytest.approx(_weights(plan(model, A100S, TP8)) * 440 / 757, rel=0.02)


@pytest.mark.parametrize("total", [0, -1, True, "440", None, 2.5, 2**60, [1]])
def test_a_sum_that_makes_no_sense_is_not_used(tmp_path, total):
    _index(tmp_path, total)
    assert indexed_bytes(tmp_path) is None


def test_a_sum_may_be_written_as_a_float(tmp_path):
    _index(tmp_path, 440e9)
    assert indexed_bytes(tmp_path) == 440_000_000_000


def test_files_in_the_cache_of_the_hub_are_at_hand(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "models--somebody--quantised" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    _index(snapshot, 440_000_000_000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    checkpoint, _ = checkpoint_at_hand(None, _model({"quant_method": "novel"}))
    assert checkpoint.disk_bytes == 440_000_000_000


def test_sizes_that_the_hub_listed_are_used_where_nothing_is_at_hand():
    model = _model({"quant_method": "novel"}).model_copy(update={"published_bytes": 440_000_000_000, "hub_id": None})
    assert checkpoint_at_hand(None, model)[0].disk_bytes == 440_000_000_000
    assert checkpoint_at_hand(None, model.model_copy(update={"published_bytes": None})) == (None, ())


def test_headers_that_disagree_with_the_configuration_are_said(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"model.norm.weight": torch.zeros(6144)}, tmp_path / "model.safetensors")
    checkpoint, warnings = checkpoint_at_hand(tmp_path, _model(GLM52_AWQ_INT4))
    assert checkpoint.disk_bytes == 4 * 6144
    assert any("config.json describes" in one and "files are believed" in one for one in warnings)


def test_a_download_that_was_cut_short_leaves_the_sum_of_the_index(tmp_path):
    (tmp_path / "model-00001.safetensors").write_bytes(b"cut short")
    _index(tmp_path, 440_000_000_000)
    checkpoint, warnings = checkpoint_at_hand(tmp_path, _model(GLM52_AWQ_INT4))
    assert checkpoint.disk_bytes == 440_000_000_000
    assert any("model-00001.safetensors" in one for one in warnings)
