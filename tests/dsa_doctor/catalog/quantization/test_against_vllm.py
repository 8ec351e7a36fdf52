"""What vLLM's own classes allocate and match, beside what the catalog says of the same settings."""

from types import SimpleNamespace

import pytest

from dsa_doctor.catalog.quantization import read_quantization
from tests.guards import path_put_back

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

ROWS, COLUMNS = 128, 256
PACKED = {"gate_up_proj": ["gate_proj", "up_proj"]}
NAMES = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1, 7, 11, 78)
    for name in (
        "self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.indexer.wk", "mlp.down_proj", "mlp.gate",
        "mlp.shared_experts.down_proj", "mlp.experts.0.up_proj",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def quantization():
    """vLLM's modules, with kernels that hold any shape: only the parameters are of interest."""
    pytest.importorskip("vllm")
    with path_put_back():
        from vllm.model_executor import parameter
        from vllm.model_executor.layers.quantization import auto_awq, auto_gptq, modelopt

    kernel = type("AnyKernel", (), {"__init__": lambda *_, **__: None, "input_quant_key": lambda _: None})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameter, "get_tensor_model_parallel_rank", lambda: 0)
        patch.setattr(parameter, "get_tensor_model_parallel_world_size", lambda: 1)
        patch.setattr(auto_gptq, "verify_marlin_supported", lambda **_: None)
        patch.setattr(auto_gptq, "choose_mp_linear_kernel", lambda _: kernel)
        patch.setattr(modelopt, "select_linear_kernel", lambda *_, **__: kernel())
        yield SimpleNamespace(awq=auto_awq, gptq=auto_gptq, modelopt=modelopt)


def _allocated(method):
    layer = torch.nn.Module()
    method.create_weights(layer, COLUMNS, [ROWS], COLUMNS, ROWS, torch.float16, weight_loader=lambda *_, **__: None)
    return sum(one.numel() * one.element_size() for one in layer.parameters())


def _ours(settings, module="model.layers.0.mlp.down_proj"):
    found = read_quantization({"quantization_config": settings})
    assert found.problems == ()
    size = found.format_of(module).size((ROWS, COLUMNS))
    assert size.low == size.high
    return size.high


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_awq(quantization, group_size):
    settings = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True}
    config = quantization.awq.AutoAWQConfig.from_config(settings)
    assert _ours(settings) == _allocated(quantization.awq.AutoAWQLinearMethod(config))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 128, -1])
def test_gptq(quantization, bits, group_size):
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": False, "sym": True}
    config = quantization.gptq.AutoGPTQConfig.from_config(settings)
    g_idx = 4 * COLUMNS  # in the checkpoint; this vLLM has no parameter for it
    assert _ours(settings) == _allocated(quantization.gptq.AutoGPTQLinearMethod(config)) + g_idx


@pytest.mark.parametrize("algorithm", ["NVFP4", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "MXFP8"])
def test_modelopt(quantization, algorithm):
    module = quantization.modelopt
    settings = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": []}
    classes = {"NVFP4": module.ModelOptNvFp4Config, "MXFP8": module.ModelOptMxFp8Config}
    config = classes.get(algorithm, module.ModelOptFp8Config).from_config(dict(settings))
    assert _ours(settings) == _allocated(module.build_linear_method(config, algorithm, "model.layers.0.mlp.down_proj"))


@pytest.mark.parametrize(
    "skipped",
    [["self_attn"], ["mlp.gate"], ["indexer", "layers.7."], ["down_proj"], ["layers.1"], ["mlp.experts.0.up"]],
)
def test_modules_that_awq_leaves_alone(quantization, skipped):
    settings = {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": skipped}
    found = read_quantization({"quantization_config": settings})
    for name in NAMES:
        theirs = quantization.awq.is_layer_skipped(name, skipped, PACKED, match_mode="substring")
        assert (found.format_of(name) is None) == theirs, name


@pytest.mark.parametrize(
    "dynamic",
    [
        {r"-:.*self_attn.*": {}},
        {r"-:model\.layers\.1\..*": {}, r"+:.*layers\.1.*": {"bits": 8}},
        {r"+:.*down_proj": {"bits": 8, "group_size": 32}, r"-:.*shared_experts.*": {}},
        {r".*experts\.0.*": {"bits": 8}},
        {r"-:self_attn": {}},
    ],
)
def test_overrides_of_gptq(quantization, dynamic):
    from vllm.model_executor.layers.quantization.utils.gptq_utils import get_dynamic_override

    settings = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "desc_act": False,
        "dynamic": dynamic,
    }
    config = SimpleNamespace(dynamic=dynamic)
    found = read_quantization({"quantization_config": settings})
    for name in (one for one in NAMES if "indexer" not in one):
        ours = found.format_of(name)
        if get_dynamic_override(config, name) is False:
            assert ours is None, name
        else:
            assert ours.bits == get_dynamic_override(config, name, "bits", 4), name
            assert ours.group_size == get_dynamic_override(config, name, "group_size", 128), name


@pytest.mark.parametrize(
    "excluded",
    [
        ["model.layers.*.self_attn*"],
        ["model.layers.7.mlp.down_proj", "*indexer*"],
        ["model.layers.78*"],
        ["*shared_experts*", "*mlp.gate"],
        ["model.layers.1.self_attn"],
        ["model.layers.0.mlp.experts.0.up_proj"],
    ],
)
def test_modules_that_modelopt_excludes(quantization, excluded):
    base = quantization.modelopt.ModelOptQuantConfigBase
    config = SimpleNamespace(exclude_modules=excluded, packed_modules_mapping=PACKED)
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": excluded}
    found = read_quantization({"quantization_config": settings})
    for name in NAMES:
        assert (found.format_of(name) is None) == base.is_layer_excluded(config, name), name


def test_layers_of_auto_round(quantization):
    from vllm.model_executor.layers.quantization.inc.inc import INCConfig

    extra = {
        "model.layers.0.self_attn.q_a_proj": {"bits": 16},
        r".*indexer.*": {"bits": 8, "group_size": 32},
        "model.layers.7.mlp.down_proj": {"bits": 8},
    }
    config = INCConfig(4, 128, block_name_to_quantize="model.layers", extra_config=extra)
    settings = {
        "quant_method": "auto-round", "bits": 4, "group_size": 128, "packing_format": "auto_round:auto_gptq",
        "block_name_to_quantize": "model.layers", "extra_config": extra,
    }  # fmt: skip
    found = read_quantization({"quantization_config": settings})
    for name in NAMES:
        theirs = config.config_parser.resolve(torch.nn.Module(), name)
        ours = found.format_of(name)
        assert (ours is not None) == theirs.quantized, name
        assert ours is None or (ours.bits, ours.group_size) == (theirs.bits, theirs.group_size), name
