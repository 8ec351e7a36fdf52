import pytest
import torch

from dsa_kernels.errors import ArgumentError
from dsa_kernels.fp8 import (
    decode_e4m3_tensor,
    encode_e4m3_tensor,
    fused_indexer_q_rope_quant,
    indexer_k_quant_and_cache,
    naive_fused_indexer_q,
    naive_indexer_k_quant_and_cache,
    naive_quantize_fp8,
    naive_read_indexer_cache,
    quantize_fp8_ue8m0,
)

POISON = 0xA5


def spread(*shape: int) -> torch.Tensor:
    """Values over many powers of two."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator) * torch.exp2(torch.randn(shape, generator=generator) * 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "group_size"), [((1, 128), 128), ((5, 3, 256), 128), ((37, 64), 16), ((0, 128), 128)]
)
def test_quantize_matches_the_reference(device, dtype, shape, group_size):
    x = spread(*shape).clamp(-6e4, 6e4).to(dtype).to(device)
    codes, scale = quantize_fp8_ue8m0(x, group_size)
    expected_codes, expected_scale = naive_quantize_fp8(x, group_size)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(codes.view(torch.uint8), expected_codes.view(torch.uint8))


def test_a_group_of_zeros_gets_a_finite_scale(device):
    codes, scale = quantize_fp8_ue8m0(torch.zeros(2, 128, device=device))
    assert not codes.view(torch.uint8).any()
    assert torch.equal(scale, torch.full_like(scale, 2.0**-22))


@pytest.mark.parametrize("is_neox", [False, True], ids=["neighbours", "halves"])
@pytest.mark.parametrize(("tokens", "heads", "rope"), [(3, 32, 64), (1, 64, 64), (5, 5, 32)])
@pytest.mark.parametrize("rope_last", [False, True])
def test_fused_q_matches_the_reference(device, is_neox, tokens, heads, rope, rope_last):
    # Views: one head of padding in q, weights of another tensor's columns.
    q = spread(tokens, heads + 1, 128).bfloat16().to(device)[:, :heads]
    weights = spread(tokens, 3, heads).bfloat16().to(device)[:, 1]
    angles = torch.rand(50, rope // 2) * 6
    cache = torch.cat((angles.cos(), angles.sin()), -1).to(device)
    positions = torch.randint(0, 50, (tokens,), device=device)
    arguments = (positions, q, cache, weights, 128**-0.5, heads**-0.5, is_neox, rope_last)
    codes, folded = fused_indexer_q_rope_quant(*arguments)
    expected_codes, expected = naive_fused_indexer_q(*arguments)
    torch.testing.assert_close(folded, expected, rtol=1e-6, atol=0)
    differing = codes.view(torch.uint8) != expected_codes.view(torch.uint8)
    # A fused multiply-add may turn a tie of the rope part's rounding to bf16; the rest has no freedom.
    assert not (differing[..., :-rope] if rope_last else differing[..., rope:]).any()
    assert differing.float().mean() <= 0.002
    torch.testing.assert_close(codes.float(), expected_codes.float(), rtol=0.13, atol=2**-9)


@pytest.mark.parametrize("scale_fmt", ["ue8m0", ""])
@pytest.mark.parametrize("page_size", [16, 64])
@pytest.mark.parametrize("gap", [0, 48], ids=["dense", "pages apart"])
def test_k_cache_write_matches_the_reference(device, scale_fmt, page_size, gap):
    num_pages, tokens = 6, 21
    storage = torch.full((num_pages, page_size * 132 + gap), POISON, dtype=torch.uint8, device=device)
    cache = storage[:, : page_size * 132].unflatten(1, (page_size, 132))
    expected = storage.clone()
    expected_cache = expected[:, : page_size * 132].unflatten(1, (page_size, 132))
    k = spread(tokens + 2, 128).bfloat16().to(device)
    slots = torch.randperm(num_pages * page_size, device=device)[:tokens]
    slots[4] = -1
    indexer_k_quant_and_cache(k, cache, slots, scale_fmt=scale_fmt)
    naive_indexer_k_quant_and_cache(k[:tokens], expected_cache, slots, ue8m0=scale_fmt == "ue8m0")
    # The whole storage: what is not written stays as it was.
    assert torch.equal(storage, expected)
    codes, scales = naive_read_indexer_cache(cache, slots[5:])
    dequantized = codes.float() * scales[:, None]
    torch.testing.assert_close(dequantized, k[5:tokens].float(), rtol=2**-4, atol=float(scales.max()) * 2**-10)


def test_k_cache_write_addresses_in_64_bits(device):
    page_size = 16
    far = torch.empty(2**32 + 2**16, dtype=torch.uint8, device=device)
    cache = far.as_strided((3, page_size, 132), (2**31 + 4096, 132, 1))
    k = spread(2, 128).to(device)
    slots = torch.tensor([2 * page_size + 3, 1], device=device)
    indexer_k_quant_and_cache(k, cache, slots)
    near = cache[[0, 2]].contiguous()
    codes, _ = naive_read_indexer_cache(near, torch.tensor([page_size + 3, 1], device=device))
    assert torch.equal(codes.view(torch.uint8), naive_quantize_fp8(k)[0].view(torch.uint8))


CACHE = torch.zeros(2, 16, 132, dtype=torch.uint8)
K = torch.zeros(3, 128)
SLOTS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: encode_e4m3_tensor(torch.zeros(3, dtype=torch.int32)), "x"),
        (lambda: decode_e4m3_tensor(torch.zeros(3)), "codes"),
        (lambda: decode_e4m3_tensor(torch.zeros(3, dtype=torch.uint8), torch.int8), "dtype"),
        (lambda: quantize_fp8_ue8m0(torch.zeros(4, 100)), "x"),
        (lambda: quantize_fp8_ue8m0(torch.zeros(4, 96), 48), "group_size"),
        (lambda: indexer_k_quant_and_cache(K, CACHE.float(), SLOTS), "kv_cache"),
        (lambda: indexer_k_quant_and_cache(K, CACHE[:, ::2], SLOTS), "kv_cache"),
        (lambda: indexer_k_quant_and_cache(K, CACHE, torch.zeros(4, dtype=torch.int64)), "slot_mapping"),
        (lambda: indexer_k_quant_and_cache(K, CACHE, SLOTS, quant_block_size=64), "quant_block_size"),
        (lambda: indexer_k_quant_and_cache(K, CACHE, SLOTS, scale_fmt="mxfp8"), "scale_fmt"),
        (lambda: indexer_k_quant_and_cache(K[:, :64], CACHE, SLOTS), "k"),
    ],
)
def test_wrong_input_names_the_argument(call, argument):
    with pytest.raises(ArgumentError, match="accepted") as caught:
        call()
    assert caught.value.name == argument
