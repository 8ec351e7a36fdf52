"""Quantisation sections of checkpoints that people run, put together from what their cards and threads say of them."""

from itertools import product

EXPERTS = [f"experts.{number}" for number in range(256)]
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def compressed_tensors(weights, *, ignore, targets=("Linear",), form="pack-quantized"):
    """Return a section with one group, as llm-compressor writes it."""
    group = {"targets": list(targets), "weights": weights, "input_activations": None, "format": form}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", *ignore],
    }


def integers(bits, group_size, *, symmetric=True):
    """Return the weight arguments of W4A16 and W8A16."""
    return {
        "num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group_size, "strategy": "group",
        "dynamic": False, "actorder": None, "observer": "mse",
    }  # fmt: skip


def _mtp_by_name(layer):
    """Name every linear module of an MTP layer, expert by expert, as exporters do."""
    attention = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    inside = [f"self_attn.{name}" for name in (*attention, "indexer.wq_b", "indexer.wk", "indexer.weights_proj")]
    inside += [f"mlp.{expert}.{name}" for expert, name in product((*EXPERTS, "shared_experts"), PROJECTIONS)]
    return [f"model.layers.{layer}.{name}" for name in ("eh_proj", *inside)]


GLM52_AWQ_INT4 = compressed_tensors(integers(4, 32), ignore=[r"re:.*self_attn.*"])
"""cyankiwi/GLM-5.2-AWQ-INT4: MLP weights in int4, groups of 32; attention and indexer in bf16; no MTP layer."""

GLM52_W4A16_MTP = compressed_tensors(
    integers(4, 128),
    targets=[r"re:.*mlp\.experts\.\d+\.(gate|up|down)_proj$"],
    ignore=_mtp_by_name(78),
)
"""canada-quant/GLM-5.2-W4A16-MTP: routed experts in int4, groups of 128; everything else and the MTP layer in bf16."""

GLM52_NVFP4 = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "group_size": 16,
    "ignore": [
        "lm_head", "model.layers.*.self_attn*", "model.layers.*.mlp.shared_experts*", "model.layers.0.mlp*",
        "model.layers.1.mlp*", "model.layers.2.mlp*", "model.layers.78*",
    ],
}  # fmt: skip
"""nvidia/GLM-5.2-NVFP4: routed experts alone; the MTP layer in bf16."""

GLM52_NVFP4_MAPIKA = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "ignore": ["lm_head", "*self_attn*", "*mlp.gate"],
}
"""Mapika/GLM-5.2-NVFP4: all MLP weights; attention, indexer, router and head in bf16; no MTP layer."""

GLM52_NVFP4_LORBUS = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "exclude_modules": [
        "lm_head", "model.embed_tokens", "*self_attn*", "*shared_experts*", "model.layers.0.*", "model.layers.1.*",
        "model.layers.76.*", "model.layers.77.*", "model.layers.78.*",
    ],
}  # fmt: skip
"""Lorbus/GLM-5.2-NVFP4: routed experts but for those of the first and last two layers and of the MTP layer."""

GLM51_NVFP4_MTP = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "model.layers.78*"]}
"""CortexLM/GLM-5.1-NVFP4-MTP: all 58,459 linear modules; the MTP layer in bf16."""

GLM52_W8A16 = compressed_tensors(integers(8, 128), ignore=[r"re:.*self_attn\.indexer\..*"])
