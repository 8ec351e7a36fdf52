"""The truth for the engram's lookup, in plain torch."""

from __future__ import annotations

import torch


def naive_engram_lookup(
    table: torch.Tensor, scales: torch.Tensor, ids: torch.Tensor, out: torch.Tensor, first_id: int, first_head: int = 0
) -> None:
    """The reference of `engram_lookup`, row by row of the table; arguments as there."""
    out.zero_()
    codes = table.view(torch.float8_e4m3fn)
    group = table.shape[1] // scales.shape[1]
    for head in range(out.shape[1]):
        if first_head + head >= ids.shape[1]:
            continue
        place = ids[:, first_head + head].long() - first_id
        owned = (place >= 0) & (place < table.shape[0])
        where = place[owned].to(table.device)
        scale = scales[where].view(torch.float8_e8m0fnu).float().repeat_interleave(group, dim=1)
        out[owned, head] = (codes.view(torch.uint8)[where].view(torch.float8_e4m3fn).float() * scale).to(out)
