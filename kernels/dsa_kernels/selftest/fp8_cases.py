"""Self-test of the fp8 ops: every code, every rounding, the indexer's q path and its cache write."""

from __future__ import annotations

import torch

from dsa_kernels import fp8
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import equal, relative_error, require, worst

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PAGE = 64


def _decode(place: Place) -> Outcome:
    codes = torch.arange(256, device=place.device).to(torch.uint8)
    # On the CPU: the reference must not come from the device that is tested.
    wanted = codes.cpu().view(torch.float8_e4m3fn).float()
    return worst(
        equal(f"value ({dtype})", fp8.decode_e4m3_tensor(codes, dtype).cpu(), wanted.to(dtype)) for dtype in _DTYPES
    )


def _encode(place: Place) -> Outcome:
    """All 65,536 bf16 and fp16 values; around every code and midpoint, and spread over all fp32."""
    every = torch.arange(-(2**15), 2**15, device=place.device).to(torch.int16)
    codes = torch.arange(127).to(torch.uint8).view(torch.float8_e4m3fn).float()
    marks = torch.cat((codes, (codes[1:] + codes[:-1]) / 2)).view(torch.int32)
    near = torch.cat([marks + step for step in (-2, -1, 0, 1, 2)])
    signed = torch.cat((near, near | -(2**31))).view(torch.float32).to(place.device)
    spread = place.whole(place.generator(1), -(2**31), 2**31, place.pick(2**22, 4000)).to(torch.int32)
    found = []
    for values in (every.view(torch.bfloat16), every.view(torch.float16), signed, spread.view(torch.float32)):
        wanted = values.cpu().float().clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
        got = fp8.encode_e4m3_tensor(values).cpu().view(torch.uint8)
        nan = torch.isnan(values.cpu().float())
        found.append(require(bool(((got[nan] & 0x7F) == 0x7F).all()), "NaN for NaN", "a number"))
        found.append(equal(f"code of {values.dtype}", got[~nan], wanted[~nan]))
    return worst(found)


def _spread(place: Place, seed: int, *shape: int) -> torch.Tensor:
    generator = place.generator(seed)
    return place.normal(generator, *shape) * torch.exp2(place.normal(generator, *shape) * 5)


def _quantize(place: Place) -> Outcome:
    found = []
    for group in (128, 16):
        x = _spread(place, group, place.pick(20_000, 9), 256).clamp(-6e4, 6e4)
        x[1] = 0
        # Maxima just above a power of two times 448: a logarithm rounds them down and saturates.
        x[2:8, 0] = torch.tensor([448.0, 448.00003, 224.00002, 896.0001, 447.99997, 1.7500001], device=place.device)
        x[2:8, 1:] = x[2:8, 1:].clamp(-1, 1)
        for dtype in (torch.float32, torch.bfloat16):
            codes, scale = fp8.quantize_fp8_ue8m0(x.to(dtype), group)
            wanted_codes, wanted_scale = fp8.naive_quantize_fp8(x.to(dtype), group)
            found.append(equal("scale", scale, wanted_scale))
            found.append(equal("code", codes.view(torch.uint8), wanted_codes.view(torch.uint8)))
    return worst(found)


def _fused_q(place: Place) -> Outcome:
    tokens, found = place.pick(1031, 5), []
    for heads, is_neox in ((64, False), (64, True), (32, False)):
        q = _spread(place, heads, tokens, heads + 1, 128).bfloat16()[:, :heads]
        weights = _spread(place, 3, tokens, 2, heads).bfloat16()[:, 1]
        angles = torch.rand((4096, 32), generator=place.generator(4), device=place.device) * 6
        table = torch.cat((angles.cos(), angles.sin()), -1)
        positions = place.whole(place.generator(5), 0, 4096, tokens)
        arguments = (positions, q, table, weights, 128**-0.5, heads**-0.5, is_neox)
        codes, folded = fp8.fused_indexer_q_rope_quant(*arguments)
        wanted_codes, wanted = fp8.naive_fused_indexer_q(*arguments)
        found.append(relative_error("folded weights", folded, wanted.double(), 1e-6))
        rest, wanted_rest = codes[..., 64:].view(torch.uint8), wanted_codes[..., 64:].view(torch.uint8)
        found.append(equal("code past the rope", rest, wanted_rest))
        # A fused multiply-add may turn a tie of the rope part's rounding to bf16.
        differ = codes[..., :64].view(torch.uint8) != wanted_codes[..., :64].view(torch.uint8)
        share, limit = float(differ.float().mean()), 0.002
        found.append(Outcome(share <= limit, share, limit, "the rope's codes", f"{share:.1%} differ"))
        # Neighbouring codes lie at most an eighth apart.
        far = (codes.float() - wanted_codes.float()).abs() > 0.13 * wanted_codes.float().abs() + 2**-9
        found.append(require(not bool(far.any()), "rope codes at most one step off", f"{int(far.sum())} further off"))
    return worst(found)


def _cache_write(place: Place) -> Outcome:
    return worst(
        _write(place, pages=place.pick(64, 5), apart=apart, scale_fmt=scale_fmt)
        for apart in (1, 2)
        for scale_fmt in ("ue8m0", "")
    )


def _write(place: Place, pages: int, apart: int, scale_fmt: str) -> Outcome:
    count = pages * PAGE // 3
    storage = torch.full((pages, apart * PAGE * 132), 0xA5, dtype=torch.uint8, device=place.device)
    cache = storage[:, : PAGE * 132].unflatten(1, (PAGE, 132))
    k = _spread(place, 6, count + 2, 128).bfloat16()
    slots = torch.randperm(pages * PAGE, generator=place.generator(7), device=place.device)[:count]
    slots[::9] = -1
    fp8.indexer_k_quant_and_cache(k, cache, slots, scale_fmt=scale_fmt)
    kept = torch.full((pages, apart * PAGE * 132), 0xA5, dtype=torch.uint8)
    kept_cache = kept[:, : PAGE * 132].unflatten(1, (PAGE, 132))
    # On the CPU, where the reference's loop over tokens is quick.
    fp8.naive_indexer_k_quant_and_cache(k[:count].cpu(), kept_cache, slots.cpu(), ue8m0=scale_fmt == "ue8m0")
    return equal("byte", storage.cpu(), kept)


def _far_write(place: Place) -> Outcome:
    stride = 2**31 + 4096
    far = torch.empty(2 * stride + PAGE * 132, dtype=torch.uint8, device=place.device)
    cache = far.as_strided((3, PAGE, 132), (stride, 132, 1))
    k = _spread(place, 8, 9, 128).bfloat16()
    slots = torch.tensor([3, 64, 70, 127, 128, 150, 191, 0, -1], device=place.device)
    cache.fill_(0xA5)
    fp8.indexer_k_quant_and_cache(k, cache, slots)
    kept = torch.full((3, PAGE, 132), 0xA5, dtype=torch.uint8)
    fp8.naive_indexer_k_quant_and_cache(k.cpu(), kept, slots.cpu())
    return equal("byte", cache.cpu(), kept)


CASES = (
    Case("decode all 256 codes, three dtypes", "fp8", "a code decoded to another value", _decode),
    Case("encode every bf16 and fp16, fp32 at midpoints", "fp8", "ties, saturation, denormals", _encode),
    Case("quantise with power-of-two scales", "fp8", "a scale too small, which saturates", _quantize),
    Case("the indexer's q: rope, quantise, fold", "fp8", "halves for neighbours, a scale not folded", _fused_q),
    Case("the indexer's k-cache write", "fp8", "a skipped slot written, scales in the wrong place", _cache_write),
)

FAR_CASES = (Case("k-cache write past 2^31", "fp8", "page offsets in 32 bits", _far_write, gib=5),)
