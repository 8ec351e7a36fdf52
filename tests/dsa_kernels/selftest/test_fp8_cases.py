"""Every fp8 case passes on the references and fails on an op with the fault that it is there for."""

import pytest
import torch

from dsa_kernels import fp8
from dsa_kernels.selftest import fp8_cases

pytestmark = pytest.mark.usefixtures("references")


@pytest.mark.parametrize("code", [0, 1, 7, 8, 0x7E, 0x7F, 0x80, 0x81, 0xFE, 0xFF])
def test_one_code_decoded_wrongly_fails(run, install, code):
    assert run("fp8", "decode").status == "pass"
    right = fp8.decode_e4m3_tensor

    def decode(codes, dtype):
        return right(torch.where(codes == code, codes ^ 2, codes), dtype)

    install(fp8, decode_e4m3_tensor=decode)
    assert run("fp8", "decode").status == "fail"


def truncate(values):
    codes = fp8.naive_encode_e4m3(values)
    beyond = codes.float().abs() > values.float().abs().clamp_max(448)
    return (codes.view(torch.uint8) - beyond.to(torch.uint8)).view(torch.float8_e4m3fn)


def no_saturation(values):
    codes = fp8.naive_encode_e4m3(values).view(torch.uint8)
    return torch.where(values.float().abs() > 464, codes | 0x7F, codes).view(torch.float8_e4m3fn)


def no_denormals(values):
    codes = fp8.naive_encode_e4m3(values).view(torch.uint8)
    return torch.where((codes & 0x7F) < 8, 0, codes).view(torch.float8_e4m3fn)


def no_nan(values):
    return fp8.naive_encode_e4m3(values.nan_to_num())


@pytest.mark.parametrize("encode", [truncate, no_saturation, no_denormals, no_nan])
def test_wrong_roundings_fail(run, install, encode):
    assert run("fp8", "encode").status == "pass"
    install(fp8, encode_e4m3_tensor=encode)
    assert run("fp8", "encode").status == "fail"


def test_a_logarithm_that_rounds_down_fails(run, install):
    assert run("fp8", "quantise").status == "pass"

    def quantize(x, group):
        groups = x.float().unflatten(-1, (-1, group))
        amax = groups.abs().amax(-1).clamp_min(1e-4)
        scale = torch.exp2(torch.ceil(torch.log2(amax / 448)))
        return fp8.naive_encode_e4m3(groups / scale.unsqueeze(-1)).flatten(-2), scale

    install(fp8, quantize_fp8_ue8m0=quantize)
    assert run("fp8", "quantise").status == "fail"


def other_pairs(positions, q, table, weights, softmax_scale, head_scale, is_neox):
    return fp8.naive_fused_indexer_q(positions, q, table, weights, softmax_scale, head_scale, not is_neox)


def not_folded(positions, q, table, weights, softmax_scale, head_scale, is_neox):
    codes, _ = fp8.naive_fused_indexer_q(positions, q, table, weights, softmax_scale, head_scale, is_neox)
    return codes, weights.float() * softmax_scale * head_scale


@pytest.mark.parametrize("fused", [other_pairs, not_folded])
def test_a_wrong_q_path_fails(run, install, fused):
    assert run("fp8", "the indexer's q").status == "pass"
    install(fp8, fused_indexer_q_rope_quant=fused)
    assert run("fp8", "the indexer's q").status == "fail"


def skip_nothing(k, cache, slots, scale_fmt="ue8m0"):
    fp8.naive_indexer_k_quant_and_cache(k[: len(slots)], cache, slots.clamp_min(0), ue8m0=scale_fmt == "ue8m0")


def always_power_of_two(k, cache, slots, scale_fmt="ue8m0"):
    fp8.naive_indexer_k_quant_and_cache(k[: len(slots)], cache, slots, ue8m0=True)


@pytest.mark.parametrize("write", [skip_nothing, always_power_of_two])
def test_a_wrong_cache_write_fails(run, install, write):
    assert run("fp8", "the indexer's k-cache").status == "pass"
    install(fp8, indexer_k_quant_and_cache=write)
    assert run("fp8", "the indexer's k-cache").status == "fail"


def test_a_cache_write_that_wraps_fails(run, install):
    assert run("far", "k-cache write").status == "pass"

    def wrap(k, cache, slots, scale_fmt="ue8m0"):
        fp8.naive_indexer_k_quant_and_cache(k, cache, torch.where(slots < 128, slots, slots - 128))

    install(fp8, indexer_k_quant_and_cache=wrap)
    assert run("far", "k-cache write").status == "fail"


def test_every_case_is_covered():
    assert len(fp8_cases.CASES) == 5
