"""Residual streams (mHC), delayed: a sublayer's input is collapsed by what the sublayer before it computed."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Mixes:
    """What one sublayer computes from the streams [T, S, H].

    Attributes:
        before: [T, S], by which the next sublayer's input is collapsed.
        after: [T, S], by which the sublayer's output is spread.
        between: [T, S, S], from stream to stream; rows and columns sum to 1.
    """

    before: Tensor
    after: Tensor
    between: Tensor


def mixes(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, eps: float, rounds: int) -> Mixes:
    """Return the mixes of a sublayer; scale [3] and base [S * (S + 2)] are of before, after and between, in order."""
    count = streams.shape[1]
    flat = streams.flatten(1)
    found = flat @ fn.T * torch.rsqrt(flat.square().mean(-1, keepdim=True) + norm_eps)
    before, after, between = (
        part * by + add
        for part, by, add in zip(
            found.split((count, count, count * count), -1),
            scale,
            base.split((count, count, count * count)),
            strict=True,
        )
    )
    even = torch.softmax(between.unflatten(-1, (count, count)), -1) + eps
    for number in range(rounds):
        if number:
            even = even / (even.sum(-1, keepdim=True) + eps)
        even = even / (even.sum(-2, keepdim=True) + eps)
    return Mixes(torch.sigmoid(before) + eps, 2 * torch.sigmoid(after), even)


def collapse(streams: Tensor, before: Tensor | None) -> Tensor:
    """Return [T, H]; the very first sublayer takes the first stream as it is."""
    return streams[:, 0] if before is None else (before[..., None] * streams).sum(1)


def spread(streams: Tensor, out: Tensor, found: Mixes) -> Tensor:
    """Return the streams after a sublayer whose output is `out` [T, H]."""
    return torch.einsum("tij,tih->tjh", found.between, streams) + found.after[..., None] * out[:, None]
