"""The dummy weights of the GPU scripts' tiny model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_products_spread_alike_quantised_or_not(scripts: Callable[[str], Any], dtype: torch.dtype) -> None:
    tiny = scripts("tiny")
    weight, scale = torch.empty(256, 512, dtype=dtype), torch.empty(2, 4)
    tiny.fill("layers.0.mlp.down_proj.weight", weight)
    tiny.fill("layers.0.mlp.down_proj.weight_scale_inv", scale)
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1) if dtype == torch.float8_e4m3fn else 1
    x = torch.randn(1000, 512, generator=torch.Generator().manual_seed(0))
    assert (x @ (weight.float() * wide).T).std().item() == pytest.approx(tiny.SPREAD, rel=0.02)


def test_a_weight_is_drawn_by_its_name_and_norms_are_ones(scripts: Callable[[str], Any]) -> None:
    fill = scripts("tiny").fill
    first, again, other, norm = (torch.zeros(64, 64) for _ in range(4))
    fill("a.weight", first)
    fill("a.weight", again)
    fill("b.weight", other)
    fill("input_layernorm.weight", norm)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(norm, torch.ones(64, 64))


def test_products_of_mxfp4_experts_spread_alike(scripts: Callable[[str], Any]) -> None:
    tiny = scripts("tiny")
    codes, scale = torch.empty(256, 256, dtype=torch.uint8), torch.empty(256, 16, dtype=torch.uint8)
    tiny.fill("experts.w2_weight", codes)
    tiny.fill("experts.w2_weight_scale", scale)
    magnitudes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = torch.cat([magnitudes, -magnitudes])
    nibbles = torch.stack([codes & 15, codes >> 4], -1).flatten(1)
    weight = values[nibbles.long()] * (scale.float() - 127).exp2().repeat_interleave(32, 1)
    x = torch.randn(1000, 512, generator=torch.Generator().manual_seed(0))
    assert tiny.SPREAD / 1.5 < (x @ weight.T).std().item() < tiny.SPREAD * 1.5  # scales are powers of two
