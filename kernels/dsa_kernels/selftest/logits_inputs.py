"""Inputs of the cases of the indexer's logits, made on the device, and the comparison with the reference."""

from __future__ import annotations

import torch

from dsa_kernels.fp8 import naive_quantize_fp8
from dsa_kernels.selftest.case import Outcome, Place
from dsa_kernels.selftest.compare import relative_error

PAGE = 64
#: fp32 sums of exact products against fp64, for a row; a row of one key may cancel over its heads.
LIMIT = 1e-4


def codes(place: Place, seed: int, *shape: int) -> torch.Tensor:
    """Random e4m3 codes as torch.float8_e4m3fn, all finite ones among them."""
    generator = place.generator(seed)
    common = place.normal(generator, *shape).to(torch.float8_e4m3fn).view(torch.uint8)
    any_code = place.whole(generator, 0, 256, *shape).to(torch.uint8)
    rare = torch.rand(shape, generator=generator, device=place.device) < 0.02
    mixed = torch.where(rare & ((any_code & 0x7F) != 0x7F), any_code, common)
    return mixed.view(torch.float8_e4m3fn)


def ragged(
    place: Place, rows: int, heads: int, keys: int, seed: int = 0
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Random q [rows, heads, 128], (k [keys, 128], k_scale [keys]), weights [rows, heads]."""
    generator = place.generator(seed)
    scale = torch.exp2(place.whole(generator, -6, 3, keys).float())
    weights = place.normal(generator, rows, heads)
    return codes(place, seed + 1, rows, heads, 128), (codes(place, seed + 2, keys, 128), scale), weights


def write_pages(place: Place, cache: torch.Tensor, slots: torch.Tensor, seed: int) -> None:
    """Write random keys into `cache` [pages, 64, 1, 132] at `slots` (distinct), by the layout and not by the op."""
    k = place.normal(place.generator(seed), slots.numel(), 128)
    quantized, scale = naive_quantize_fp8(k)
    page, offset = slots // PAGE, slots % PAGE
    lines = cache.view(cache.shape[0], PAGE * 132)
    inside = torch.arange(128, device=place.device)
    lines[page[:, None], offset[:, None] * 128 + inside] = quantized.view(torch.uint8)
    part = torch.arange(4, device=place.device)
    lines[page[:, None], PAGE * 128 + offset[:, None] * 4 + part] = scale.view(torch.uint8)


def judge(got: torch.Tensor, expected: torch.Tensor) -> Outcome:
    """Every row within the limit, -inf exactly where the reference has it."""
    return relative_error("logits", got, expected, LIMIT)
