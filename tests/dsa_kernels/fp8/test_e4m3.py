import pytest
import torch
import triton
import triton.language as tl

from dsa_kernels.fp8 import decode_e4m3_tensor, encode_e4m3_tensor, naive_encode_e4m3
from dsa_kernels.fp8.e4m3 import decode_e4m3_pairs, decode_e4m3_small, power_of_two_scale

CODES = torch.arange(256, dtype=torch.uint8)


@triton.jit
def small_kernel(codes_ptr, small_ptr, words_ptr, first_ptr, second_ptr):
    offsets = tl.arange(0, 256)
    tl.store(small_ptr + offsets, decode_e4m3_small(tl.load(codes_ptr + offsets)))
    pairs = tl.arange(0, 128)
    first, second = decode_e4m3_pairs(tl.load(words_ptr + pairs))
    tl.store(first_ptr + pairs, first)
    tl.store(second_ptr + pairs, second)


@triton.jit
def scale_kernel(amax_ptr, scale_ptr, floor, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(scale_ptr + offsets, power_of_two_scale(tl.load(amax_ptr + offsets), floor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_codes_decode_as_torch_does(device, dtype):
    codes = CODES.to(device)
    torch.testing.assert_close(
        decode_e4m3_tensor(codes, dtype), codes.view(torch.float8_e4m3fn).to(dtype), rtol=0, atol=0, equal_nan=True
    )


def test_all_codes_survive_a_round_trip(device):
    codes = CODES.to(device)
    again = encode_e4m3_tensor(decode_e4m3_tensor(codes)).view(torch.uint8)
    is_nan = (codes & 0x7F) == 0x7F
    assert torch.equal(again[~is_nan], codes[~is_nan])
    assert ((again[is_nan] & 0x7F) == 0x7F).all()


def test_the_scaled_decoders_are_exact_on_every_finite_code(device):
    codes = CODES.to(device)
    small = torch.empty(256, dtype=torch.float16, device=device)
    first, second = (torch.empty(128, dtype=torch.float16, device=device) for _ in range(2))
    small_kernel[(1,)](codes, small, codes.view(torch.int16), first, second)
    finite = (codes & 0x7F) != 0x7F
    expected = codes.view(torch.float8_e4m3fn).float() / 256
    assert torch.equal(small.float()[finite], expected[finite])
    assert torch.equal(first.float()[finite[0::2]], expected[0::2][finite[0::2]])
    assert torch.equal(second.float()[finite[1::2]], expected[1::2][finite[1::2]])


def edge_values() -> torch.Tensor:
    """Every code's value, the ties between neighbours, both sides of each tie, and everything special."""
    finite = CODES[(CODES & 0x7F) != 0x7F].view(torch.float8_e4m3fn).float()
    ordered = finite.unique()
    ties = (ordered[1:] + ordered[:-1]) / 2
    above, below = (torch.nextafter(ties, torch.full_like(ties, limit)) for limit in (1e9, -1e9))
    special = torch.tensor([0.0, -0.0, 448, 464, 465, 1e30, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-30])
    return torch.cat((finite, ties, above, below, special))


def random_values() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (20_000,), generator=generator).to(torch.int32)
    return bits.view(torch.float32)


@pytest.mark.parametrize("values", [edge_values(), random_values()], ids=["edges", "random bits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encode_saturates_and_rounds_as_torch_does(device, values, dtype):
    x = values.to(dtype).to(device)
    is_nan = torch.isnan(x)
    got, expected = encode_e4m3_tensor(x).view(torch.uint8), naive_encode_e4m3(x).view(torch.uint8)
    assert torch.equal(got[~is_nan], expected[~is_nan])
    assert ((got[is_nan] & 0x7F) == 0x7F).all()


def test_scales_are_the_smallest_power_of_two_that_fits(device):
    powers = torch.exp2(torch.arange(-12, 9).float()) * 448
    up, down = (torch.nextafter(powers, torch.full_like(powers, limit)) for limit in (1e9, -1e9))
    amax = torch.cat((powers, up, down, torch.tensor([0.0]))).to(device)
    scale = torch.empty_like(amax)
    scale_kernel[(1,)](amax, scale, 1e-4, BLOCK=64)
    assert ((torch.frexp(scale).mantissa == 0.5) & (scale > 0)).all()
    exact = amax.double().clamp_min(1e-4)
    # One last place of the quotient may round a value just above a power of two down to it.
    assert (scale.double() * 448 >= exact * (1 - 2**-24)).all()
    assert (scale.double() / 2 * 448 < exact).all()
