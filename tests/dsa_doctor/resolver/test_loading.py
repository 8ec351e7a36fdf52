"""DSA917: quantised checkpoints that the judged vLLM cannot load, told before the download."""

import pytest

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Fingerprint, QuantizationSupport, Software
from dsa_doctor.resolver import Request, Target, resolve
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.planner import quantised

NEWEST = QuantizationSupport(
    methods=("awq", "compressed-tensors", "fp8", "gptq", "modelopt", "auto-round"),
    fused_indexer_key=True,
    widened_key_scales=("block", "channel", "group"),
    one_scheme_for_experts=True,
    orders_columns=False,
    orders_columns_gptq=False,
    int4_fp8_linear="9.0",
    int4_fp8_experts="",
    int4_int8_linear=True,
    int4_int8_experts=False,
    head_by_class=False,
    mtp_splits_fused=False,
    mtp_takes_gptq=False,
    awq_bits=(4,),
    gptq_bits=(4, 8),
)
"""What vLLM 0.33.0's sources say; the compat tests read it from them."""
OLDEST = NEWEST.model_copy(
    update={
        "orders_columns": True,
        "orders_columns_gptq": True,
        "int4_fp8_experts": "9.0",
        "mtp_takes_gptq": True,
        "methods": ("bitsandbytes",),
    }
)

INT4 = quantised.integers(4, 128)
INDEXER = r"re:.*self_attn\.indexer\..*"
DRAFT = r"re:.*layers\.78\..*"
LINEAR_OF_MLA = (r"re:.*self_attn\.(q_b|kv_b|o)_proj$",)
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
NO_INDEXER = ["indexer", "kv_b_proj"]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
FP8_INPUT = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
INT8_INPUT = {**FP8_INPUT, "type": "int"}


def _w4a8(inputs, targets):
    section = quantised.compressed_tensors(INT4, ignore=[INDEXER, DRAFT], targets=targets)
    section["config_groups"]["group_0"]["input_activations"] = inputs
    return section


def _found(section, support=NEWEST, *, target=library.A100, software=None):
    config = {**find_model("GLM-5.2").config, "quantization_config": section}
    model = geometry_from_config(config, name="quantised", source="test")
    changes = {"fingerprint": Observation[Fingerprint].ok(library.fingerprint(quantization=support))}
    if software is not None:
        changes["software"] = Observation[Software].ok(software)
    facts = library.a100_facts(**changes)
    verdict = resolve(
        facts,
        model=model,
        target=Target(name=target.name, capability=target.capability, source="--target", count=8),
        request=Request(),
    )
    return [one for one in verdict.findings if one.id == "DSA917"]


FP8_ROWS = quantised.compressed_tensors(
    {"num_bits": 8, "type": "float", "strategy": "channel"},
    ignore=[r"re:.*weights_proj", DRAFT],
    form="float-quantized",
)
STATIC = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
FP8_STATIC = {**FP8_ROWS, "config_groups": {"a": {**FP8_ROWS["config_groups"]["group_0"], "input_activations": STATIC}}}

LOADS = {
    "bf16": None,
    "the native FP8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "W4A16, indexer left alone": quantised.compressed_tensors(INT4, ignore=[INDEXER, DRAFT]),
    "canada-quant's": quantised.GLM52_W4A16_MTP,
    "nvidia's": quantised.GLM52_NVFP4,
    "W8A16, MTP too": quantised.compressed_tensors(quantised.integers(8, 128), ignore=[INDEXER, r"re:.*eh_proj"]),
    "an FP8 wk is widened": FP8_ROWS,
    "AWQ of the experts": {**AWQ, "modules_to_not_convert": ["self_attn", "shared_experts", "mlp.gate.", "layers.0."]},
    "GPTQ without MTP": {**GPTQ, "dynamic": {r"-:.*layers\.78\..*": {}}},
    "W4A8 int8 in linear layers": _w4a8(INT8_INPUT, LINEAR_OF_MLA),
    "W4A8 fp8 in the experts": _w4a8(FP8_INPUT, (r"re:.*mlp\.experts\..*",)),
}


@pytest.mark.parametrize("section", LOADS.values(), ids=LOADS)
def test_what_loads_is_not_mentioned(section):
    assert _found(section) == []


STOPS = {
    "indexer quantised": (
        quantised.compressed_tensors(INT4, ignore=[]), "self_attn.indexer.wk is int4, and vLLM loads it into wk_weights"
    ),
    "weights_proj alone": (
        quantised.compressed_tensors(INT4, ignore=[r"re:.*indexer\.w[kq].*"]), "indexer.weights_proj is int4"
    ),
    "an int8 wk": (
        quantised.compressed_tensors(quantised.integers(8, 128), ignore=[r"re:.*weights_proj"]), "indexer.wk is int8"
    ),
    "NVFP4 of everything": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, "indexer.wk is nvfp4"
    ),
    "FP8 a tensor": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        "indexer.wk is fp8 with one scale a tensor; it is widened from a scale a block or channel or group",
    ),
    "FP8 with static activations": (FP8_STATIC, "indexer.wk has a scale for its inputs"),
    "AWQ with mlp.gate": (
        {**AWQ, "modules_to_not_convert": [*NO_INDEXER, "mlp.gate"]},
        "'mlp.gate' in modules_to_not_convert leaves model.layers.0.mlp.gate_up_proj unquantised",
    ),
    "AWQ with vLLM's own name": (
        {**AWQ, "modules_to_not_convert": [*NO_INDEXER, "0.mlp.gate_up_proj"]},
        "leaves model.layers.0.mlp.gate_up_proj unquantised, and model.layers.0.mlp.gate_proj is not",
    ),
    "half of a fused MLP": (
        quantised.compressed_tensors(INT4, ignore=[INDEXER, r"re:.*shared_experts\.up_proj"]),
        "shared_experts.gate_proj is int4 and model.layers.3.mlp.shared_experts.up_proj is bf16",
    ),
    "half of the fused attention": (
        quantised.compressed_tensors(INT4, ignore=[INDEXER, r"re:.*kv_a_proj_with_mqa"]), "kv_a_proj_with_mqa is bf16"
    ),
    "down_proj of the experts left alone": (
        quantised.compressed_tensors(INT4, ignore=[INDEXER, r"re:.*experts\.\d+\.down_proj"]),
        "experts.0.gate_proj is int4 and model.layers.3.mlp.experts.0.down_proj is bf16",
    ),
    "one expert left alone": (
        quantised.compressed_tensors(INT4, ignore=[INDEXER, "model.layers.9.mlp.experts.200.up_proj"]),
        "model.layers.9.mlp.experts.200.up_proj is bf16",
    ),
    "W4A8 fp8 in linear layers": (
        _w4a8(FP8_INPUT, ("Linear",)), "int4 weights with FP8 activations; of this vLLM only compute capability 9.0"
    ),
    "W4A8 int8 in the experts": (
        _w4a8(INT8_INPUT, (r"re:.*mlp\.experts\..*",)), "int4 weights with int8 activations, for which this vLLM has no"
    ),
    "an output head": (
        {**quantised.compressed_tensors(INT4, ignore=[]), "ignore": [INDEXER]}, "lm_head is int4, and vLLM quantises it"
    ),
    "an order of columns": (
        quantised.compressed_tensors({**INT4, "actorder": "group"}, ignore=[INDEXER]), "actorder is group"
    ),
    "desc_act": ({**GPTQ, "desc_act": True}, "desc_act is true"),
    "AWQ of 8 bits": ({**AWQ, "bits": 8, "modules_to_not_convert": NO_INDEXER}, "weights of 8 bits; it takes 4 bits"),
    "GPTQ of 3 bits": ({**GPTQ, "bits": 3}, "gptq weights of 3 bits; it takes 4 or 8 bits"),
    "GPTQ of 2 bits in some layers": (
        {**GPTQ, "dynamic": {r"+:.*down_proj": {"bits": 2}}}, "gptq weights of 2 bits"
    ),
    "a method that was dropped": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "no quantisation method"),
    "a method that never was": ({"quant_method": "exl3", "bits": 3.5}, "no quantisation method 'exl3'"),
}  # fmt: skip


@pytest.mark.parametrize(("section", "said"), STOPS.values(), ids=STOPS)
def test_what_cannot_be_loaded_fails_with_the_reason(section, said):
    (found,) = _found(section)
    assert found.status == "fail"
    assert said in found.summary
    assert found.remedy


def test_another_vllm_takes_what_this_one_has_dropped():
    section = quantised.compressed_tensors({**INT4, "actorder": "group"}, ignore=[INDEXER, DRAFT])
    support = OLDEST.model_copy(update={"methods": NEWEST.methods})
    assert _found(section, support) == []
    assert _found({"quant_method": "bitsandbytes", "load_in_4bit": True}, OLDEST) == []


def test_an_older_vllm_widens_blocks_alone():
    blocks = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
    older = NEWEST.model_copy(update={"widened_key_scales": ("block",)})
    (found,) = _found(FP8_ROWS, older)
    assert "one scale a channel; it is widened from a scale a block" in found.summary
    assert (
        _found(
            quantised.compressed_tensors(blocks, ignore=[r"re:.*weights_proj", DRAFT], form="float-quantized"), older
        )
        == []
    )


def test_fp8_activations_are_served_on_hopper():
    everywhere = _w4a8(FP8_INPUT, ("Linear",))
    assert _found(everywhere, target=library.H100) == []
    experts = _w4a8(FP8_INPUT, (r"re:.*mlp\.experts\..*",))
    (found,) = _found(experts, NEWEST.model_copy(update={"int4_fp8_experts": "9.0"}))
    assert "mlp.experts.0.down_proj has int4 weights with FP8 activations" in found.summary


def test_another_package_may_bring_the_method():
    entry = library.PLUGIN_ENTRY_POINT.model_copy(update={"value": "other.plugin:register", "name": "other"})
    software = library.software().model_copy(update={"vllm_plugins": (entry,)})
    (found,) = _found({"quant_method": "exl3"}, software=software)
    assert found.status == "warn"


def test_the_plugins_that_vllm_itself_brings_add_no_method():
    own = library.PLUGIN_ENTRY_POINT.model_copy(
        update={"value": "vllm.plugins.lora_resolvers.hf_hub_resolver:register", "name": "lora_hf_hub_resolver"}
    )
    software = library.software().model_copy(update={"vllm_plugins": (library.PLUGIN_ENTRY_POINT, own)})
    (found,) = _found({"quant_method": "exl3"}, software=software)
    assert found.status == "fail"
    assert "in a format that this vLLM has" in found.remedy[0]


CANNOT_DRAFT = {
    "cyankiwi's": (quantised.GLM52_AWQ_INT4, "model.layers.78.eh_proj is int4"),
    "Mapika's": (quantised.GLM52_NVFP4_MAPIKA, "eh_proj is nvfp4, and vLLM's draft model keeps it in bf16, unless the"),
    "W8A16": (quantised.GLM52_W8A16, "model.layers.78.eh_proj is int8"),
    "GPTQ": (GPTQ, "self_attn.q_a_proj is quantised by GPTQ, and vLLM's draft model has no place for its g_idx"),
    "GPTQ, its experts": (
        {**GPTQ, "dynamic": {r"-:.*(indexer|eh_proj|layers\.78\.self_attn).*": {}}},
        "layers.78.mlp.experts.0.gate_proj is",
    ),
}


@pytest.mark.parametrize(("section", "said"), CANNOT_DRAFT.values(), ids=CANNOT_DRAFT)
def test_weights_that_cannot_draft_are_a_warning(section, said):
    (found,) = _found(section)
    assert (found.status, "Multi-token prediction" in found.summary) == ("warn", True)
    assert any(said in line for line in found.evidence)


def test_a_draft_model_that_takes_gptq_is_not_warned_of():
    assert (
        _found({**GPTQ, "dynamic": {r"-:.*(indexer|eh_proj).*": {}}}, OLDEST.model_copy(update={"methods": ("gptq",)}))
        == []
    )


def test_facts_without_what_vllm_takes_judge_nothing():
    assert _found(quantised.compressed_tensors(INT4, ignore=[]), None) == []


def test_settings_that_make_no_sense_are_a_warning():
    (found,) = _found(quantised.compressed_tensors({**INT4, "num_bits": 400}, ignore=[INDEXER]))
    assert found.status == "warn"
    assert "num_bits is '400'" in found.evidence[0]


def test_a_checkpoint_that_cannot_be_loaded_is_not_green():
    config = {**find_model("GLM-5.2").config, "quantization_config": quantised.compressed_tensors(INT4, ignore=[])}
    model = geometry_from_config(config, name="quantised", source="test")
    observed = Observation[Fingerprint].ok(library.fingerprint(quantization=NEWEST))
    verdict = resolve(
        library.a100_facts(fingerprint=observed, plugin=True),
        model=model,
        target=Target(name="A100", capability="8.0", source="--target"),
        request=Request(),
    )
    assert verdict.exit_code != 0
