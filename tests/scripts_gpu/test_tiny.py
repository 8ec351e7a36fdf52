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
