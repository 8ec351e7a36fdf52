"""The weights of hybrid families against transformers' own models, built on the meta device.

The planner names weights as the checkpoint does; transformers renames and fuses some of them, which RENAMED undoes.
"""

import json
import re
import subprocess
import sys
from math import prod

import pytest

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model
from dsa_doctor.planner.parallel import Parallel, stage_weights
from dsa_doctor.planner.weights import parameter_count

_ORACLE = """
import importlib.util, json, sys
find = importlib.util.find_spec
HIDDEN = ("torchvision", "torchaudio", "torchcodec")
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in HIDDEN else find(name, *rest)
import torch, transformers
answer = {}
for name, (model_class, config_class, config) in json.load(sys.stdin).items():
    module = transformers
    for part in model_class.split(".")[:-1]:
        module = getattr(module, part)
    names = [one.rpartition(".")[2] for one in (model_class, config_class)]
    with torch.device("meta"):
        model = getattr(module, names[0])(getattr(module, names[1])(**config))
    answer[name] = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
sys.stdout.write(json.dumps(answer))
"""

_GLM = "models.glm5_next."
_V4_CLASSES = ("DeepseekV4ForCausalLM", "DeepseekV4Config")
_GLM_CLASSES = (f"{_GLM}Glm5NextForConditionalGeneration", f"{_GLM}Glm5NextConfig")

GLM_RENAMED = (
    (r"^model\.language_model\.(embed_tokens|norm|layers)", r"\1"),
    (r"^model\.visual\.", "visual."),
    (r"\.forget_gate\.", "."),
    (r"\.(attn|ffn)_hc\.(fn|base|scale)$", r".hc_\1_\2"),
)
V4_RENAMED = (
    (r"^model\.embed_tokens\.", "embed."),
    (r"^lm_head\.", "head."),
    (r"^model\.hc_head\.hc_", "hc_head_"),
    (r"^model\.", ""),
    (r"\.self_attn\.compressor\.indexer\.(position_bias|kv_proj|gate_proj|kv_norm)",
     r".attn.indexer.compressor.\1"),
    (r"\.self_attn\.compressor\.indexer\.(scorer\.)?", ".attn.indexer."),
    (r"\.indexer\.q_b_proj\.", ".indexer.wq_b."),
    (r"\.self_attn\.", ".attn."),
    (r"compressor\.position_bias$", "compressor.ape"),
    (r"compressor\.kv_proj\.", "compressor.wkv."),
    (r"compressor\.gate_proj\.", "compressor.wgate."),
    (r"compressor\.kv_norm\.", "compressor.norm."),
    (r"\.attn\.sinks$", ".attn.attn_sink"),
    (r"\.q_a_proj\.", ".wq_a."),
    (r"\.q_b_proj\.", ".wq_b."),
    (r"\.q_a_norm\.", ".q_norm."),
    (r"\.attn\.kv_proj\.", ".attn.wkv."),
    (r"\.o_a_proj\.", ".wo_a."),
    (r"\.o_b_proj\.", ".wo_b."),
    (r"\.mlp\.", ".ffn."),
    (r"e_score_correction_bias$", "bias"),
    (r"\.gate_proj\.", ".w1."),
    (r"\.up_proj\.", ".w3."),
    (r"\.down_proj\.", ".w2."),
    (r"\.experts\.gate_up_proj$", ".experts.w1+w3"),
    (r"\.experts\.down_proj$", ".experts.w2"),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.(attn|ffn)_hc\.(fn|base|scale)$", r".hc_\1_\2"),
)  # fmt: skip


def _configs():
    glm = find_model("GLM-5.3-Flash-BF16").config
    v4 = {key: value for key, value in find_model("DeepSeek-V4-Flash").config.items() if key != "quantization_config"}
    pro = {key: value for key, value in find_model("DeepSeek-V4-Pro").config.items() if key != "quantization_config"}
    return {"glm": (*_GLM_CLASSES, glm), "v4": (*_V4_CLASSES, v4), "pro": (*_V4_CLASSES, pro)}


@pytest.fixture(scope="module")
def states(once):
    pytest.importorskip("transformers")
    return once("hybrid-weights-of-transformers", _states)


def _states():
    result = subprocess.run(
        [sys.executable, "-c", _ORACLE], input=json.dumps(_configs()), capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def _ours(model, *, fused):
    """Return name to shape, with the experts' gate and up projections as the one tensor that transformers has."""
    shapes = {}
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=False):
        name = weight.name if layer is None else f"layers.{layer}.{weight.name}"
        shape = list(weight.shape)
        if weight.sharding == "experts":
            rows, columns = weight.shape
            gate, up, _ = fused
            if name.endswith(f"{up}.weight"):
                continue
            if name.endswith(f"{gate}.weight"):
                name, rows = name.replace(f"{gate}.weight", f"{gate}+{up}"), 2 * rows
            shape = [weight.copies, rows, columns]
            name = name.removesuffix(".weight")
        shapes[name] = shape
    return shapes


def _renamed(state, rules):
    names = {}
    for name, shape in state.items():
        changed = name
        for pattern, replacement in rules:
            changed = re.sub(pattern, replacement, changed)
        names[changed] = shape
    return names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4", "pro"])
def test_deepseek_v4_has_the_weights_of_transformers(states, name):
    model = geometry_from_config(_configs()[name][2], name=name, source="test")
    assert _ours(model, fused=("w1", "w3", "w2")) == _renamed(states[name], V4_RENAMED)
    assert parameter_count(model) == sum(prod(shape) for shape in states[name].values())


@pytest.mark.slow
def test_glm_5_3_flash_has_the_weights_of_transformers(states):
    """transformers keeps the three convolutions in one tensor, and the vision tower's patches unflattened."""
    model = geometry_from_config(_configs()["glm"][2], name="glm", source="test")
    theirs = _renamed(states["glm"], GLM_RENAMED)
    for name in [one for one in theirs if one.endswith("self_attn.conv1d.weight")]:
        rows, _, width = theirs.pop(name)
        for part in ("q", "k", "v"):
            theirs[name.replace("conv1d", f"{part}_conv1d")] = [rows // 3, width]
    for name in ("visual.patch_embed.proj.weight", "visual.downsample.weight"):
        theirs[name] = [theirs[name][0], prod(theirs[name][1:])]
    theirs = {name.replace("experts.gate_up_proj", "experts.gate_proj+up_proj"): one for name, one in theirs.items()}
    assert _ours(model, fused=("gate_proj", "up_proj", "down_proj")) == theirs
    assert parameter_count(model) == sum(prod(shape) for shape in states["glm"].values())
