"""Rotation of the last values of a row, by plain or stretched (YaRN) angles."""

import math
from typing import Any

import torch
from torch import Tensor


def frequencies(theta: float, width: int, scaling: dict[str, Any] | None) -> Tensor:
    """Return [width / 2] angles of position 1; YaRN slows those that turn rarely within the original context."""
    own = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    if scaling is None:
        return own

    def place(turns: float) -> float:
        return width * math.log(scaling["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (
            2 * math.log(theta)
        )  # fmt: skip

    low = max(math.floor(place(scaling["beta_fast"])), 0)
    high = min(math.ceil(place(scaling["beta_slow"])), width - 1)
    slowed = ((torch.arange(width // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    return own / scaling["factor"] * slowed + own * (1 - slowed)


def angles(config: dict[str, Any], positions: Tensor, *, compressed: bool) -> Tensor:
    """Return [T, rope / 2]: of layers with compressed rows, or of those with a window alone."""
    theta = config["compress_rope_theta" if compressed else "rope_theta"]
    own = frequencies(theta, config["qk_rope_head_dim"], config["rope_scaling"] if compressed else None)
    return positions[:, None].double() * own


def rotate_end(x: Tensor, turn: Tensor, *, inverse: bool = False) -> Tensor:
    """Rotate the last 2 * turn.shape[-1] values of `x`, neighbours as pairs."""
    width = 2 * turn.shape[-1]
    plain, even, odd = x[..., :-width], x[..., -width::2], x[..., 1 - width :: 2]
    cos, sin = turn.cos().float(), (-turn if inverse else turn).sin().float()
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
    return torch.cat((plain, turned), -1)
