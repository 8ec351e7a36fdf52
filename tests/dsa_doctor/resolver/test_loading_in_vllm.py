"""The errors that DSA917 foretells, raised by the installed vLLM itself."""

from unittest import mock

import pytest

from tests.dsa_doctor.planner import quantised
from tests.guards import path_put_back

pytestmark = pytest.mark.slow

INT4 = quantised.integers(4, 128)
FUSED = {"gate_up_proj": ["gate_proj", "up_proj"], "fused_qkv_a_proj": ["q_a_proj", "kv_a_proj_with_mqa"]}
FP8_INPUT = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}


@pytest.fixture(scope="module", autouse=True)
def compressed_tensors():
    """vLLM's module; every test here imports what hangs on it."""
    pytest.importorskip("vllm")
    with path_put_back():
        from vllm.model_executor.layers.quantization.compressed_tensors import compressed_tensors

    return compressed_tensors


def _config(module, section):
    config = module.CompressedTensorsConfig.from_config(section)
    config.packed_modules_mapping = FUSED
    return config


@pytest.mark.parametrize(
    ("ignored", "module"),
    [
        (r"re:.*shared_experts\.up_proj", "model.layers.3.mlp.shared_experts.gate_up_proj"),
        (r"re:.*kv_a_proj_with_mqa", "model.layers.3.self_attn.fused_qkv_a_proj"),
    ],
)
def test_half_of_a_fused_module(compressed_tensors, ignored, module):
    section = quantised.compressed_tensors(INT4, ignore=[ignored])
    config = _config(compressed_tensors, section)
    with pytest.raises(ValueError, match="different quantization schemes for the shards"):
        config.get_scheme_dict(mock.Mock(), module)


@pytest.mark.parametrize(("capability", "raises"), [((8, 0), True), ((8, 9), True), ((9, 0), False)])
def test_int4_weights_with_fp8_activations(compressed_tensors, capability, raises):
    from compressed_tensors.quantization import QuantizationArgs
    from vllm.platforms.interface import DeviceCapability

    config = _config(compressed_tensors, quantised.compressed_tensors(INT4, ignore=[]))
    platform = mock.Mock(get_device_capability=lambda: DeviceCapability(*capability), is_xpu=lambda: False)
    weights, inputs = QuantizationArgs(**INT4), QuantizationArgs(**FP8_INPUT)
    with mock.patch.object(compressed_tensors, "current_platform", platform):
        if raises:
            with pytest.raises(NotImplementedError, match="No compressed-tensors compatible scheme"):
                config._get_scheme_from_parts(weights, inputs, format="pack-quantized")
        else:
            assert config._get_scheme_from_parts(weights, inputs, format="pack-quantized") is not None


def test_an_order_of_columns(compressed_tensors):
    section = quantised.compressed_tensors({**INT4, "actorder": "group"}, ignore=[])
    with pytest.raises(ValueError, match="no longer supported"):
        compressed_tensors.CompressedTensorsConfig.from_config(section)


def test_desc_act_of_gptq():
    from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig

    section = {"bits": 4, "group_size": 128, "desc_act": True, "sym": True}
    with pytest.raises(ValueError, match=r"desc_act=True.*no longer"):
        AutoGPTQConfig.from_config(section)


def test_the_name_of_the_router_leaves_a_fused_mlp_alone_in_awq():
    from vllm.model_executor.layers.quantization.utils.quant_utils import is_layer_skipped

    for skipped, is_skipped in ((["mlp.gate"], True), (["mlp.gate."], False)):
        prefix = "model.layers.0.mlp.gate_up_proj"
        assert is_layer_skipped(prefix, skipped, FUSED, match_mode="substring") == is_skipped
        assert not is_layer_skipped("model.layers.0.mlp.up_proj", skipped, {}, match_mode="substring")


@pytest.mark.parametrize(("bits", "known"), [(4, True), (8, False)])
def test_bits_of_awq(bits, known):
    from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig

    section = {"bits": bits, "group_size": 128, "zero_point": True}
    if known:
        assert AutoAWQConfig.from_config(section).weight_bits == bits
    else:
        with pytest.raises(ValueError, match="Unsupported num_bits = 8"):
            AutoAWQConfig.from_config(section)
