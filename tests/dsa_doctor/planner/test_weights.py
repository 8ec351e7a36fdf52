"""The planner's weights against transformers' own models of the same configurations, built on the meta device."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import KNOWN_MODELS, find_model
from dsa_doctor.planner.parallel import Parallel, stage_weights
from dsa_doctor.planner.weights import layer_weights, mtp_weights, parameter_count

# The media packages are hidden: CUDA builds of them beside a CPU torch break the import of transformers' models.
_ORACLE = """
import importlib.util, json, sys
find = importlib.util.find_spec
HIDDEN = ("torchvision", "torchaudio", "torchcodec")
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in HIDDEN else find(name, *rest)
import torch, transformers
answer = {}
for name, (family, config) in json.load(sys.stdin).items():
    with torch.device("meta"):
        model = getattr(transformers, family + "ForCausalLM")(getattr(transformers, family + "Config")(**config))
    state = model.state_dict()
    answer[name] = {key: list(tensor.shape) for key, tensor in state.items()}
sys.stdout.write(json.dumps(answer))
"""

_FAMILIES = {"glm_moe_dsa": "GlmMoeDsa", "deepseek_v32": "DeepseekV32"}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000, "head_dim": 32,
}  # fmt: skip


def _configs():
    configs = {}
    for known in KNOWN_MODELS:
        family = _FAMILIES.get(known.config["model_type"])
        if (family is not None and "quantization_config" not in known.config) or known.name == "DeepSeek-V3.2":
            configs[known.name] = (family, known.config)
    configs["llama"] = ("Llama", _LLAMA)
    configs["tiny"] = ("GlmMoeDsa", {**find_model("GLM-5.2").config, "num_hidden_layers": 7, "n_routed_experts": 6})
    return configs


@pytest.fixture(scope="module")
def states(once):
    pytest.importorskip("transformers")
    return once("weights-of-transformers", _states)


def _states():
    configs = {
        name: (family, {key: value for key, value in config.items() if key != "quantization_config"})
        for name, (family, config) in _configs().items()
    }
    result = subprocess.run(
        [sys.executable, "-c", _ORACLE], input=json.dumps(configs), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def _ours(config):
    """Return name to shape, in transformers' names: the experts' gate and up projections are one tensor there."""
    model = geometry_from_config(config, name="x", source="test")
    shapes = {}
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=False):
        prefix = "model." if layer is None else f"model.layers.{layer}."
        name = weight.name if weight.name.startswith("lm_head") else prefix + weight.name
        if ".experts." not in name:
            shapes[name] = list(weight.shape)
            continue
        rows, columns = weight.shape
        if "up_proj" in name:
            continue
        if "gate_proj" in name:
            shapes[name.replace("gate_proj.weight", "gate_up_proj")] = [weight.copies, 2 * rows, columns]
        else:
            shapes[name.removesuffix(".weight")] = [weight.copies, rows, columns]
    return shapes


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_configs()))
def test_every_weight_has_the_name_and_shape_that_transformers_gives_it(states, name):
    assert _ours(_configs()[name][1]) == states[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_configs()))
def test_the_parameter_count_is_that_of_transformers(states, name):
    expected = 0
    for shape in states[name].values():
        count = 1
        for one in shape:
            count *= one
        expected += count
    model = geometry_from_config(_configs()[name][1], name=name, source="test")
    assert parameter_count(model) == expected


def test_mtp_layers_are_counted_separately():
    model = find_model("GLM-5").geometry()
    own = sum(one.count for one in (*layer_weights(model, 78), *mtp_weights(model)))
    assert parameter_count(model, mtp=True) - parameter_count(model) == own
    assert 9.5e9 < own < 10.5e9


def test_shared_layers_have_no_indexer():
    model = find_model("GLM-5.2").geometry()
    with_indexer = [layer for layer in range(78) if any(one.part == "indexer" for one in layer_weights(model, layer))]
    assert len(with_indexer) == 21
    assert with_indexer[:5] == [0, 1, 2, 6, 10]
    assert any(one.part == "indexer" for one in layer_weights(model, 78)), "an MTP layer selects for itself"


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 13])
def test_pipeline_stages_hold_every_weight_once(stages):
    model = find_model("GLM-5.2-FP8").geometry()
    whole = Counter((layer, weight.name) for layer, weight in stage_weights(model, Parallel(), 0, mtp=True))
    spread = Counter(
        (layer, weight.name)
        for stage in range(stages)
        for layer, weight in stage_weights(model, Parallel(pipeline=stages), stage, mtp=True)
    )
    if stages > 1:  # the last stage needs the embedding again, for its MTP layer
        whole[(None, "embed_tokens.weight")] += 1
    assert spread == whole
