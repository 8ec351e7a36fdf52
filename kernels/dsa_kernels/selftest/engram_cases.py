"""Self-test of the engram's lookup."""

from __future__ import annotations

import torch

from dsa_kernels import engram
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import equal, worst

WIDTH, GROUP, COLUMNS = 256, 32, 24
FIRST_ID = 5_000


def tables(place: Place, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every code in every row, in another order each; scales of which no product is below the normal numbers; NaN."""
    order = torch.arange(WIDTH, device=place.device)
    table = (order + 37 * torch.arange(rows, device=place.device)[:, None]) % 256
    scales = torch.arange(rows * (WIDTH // GROUP), device=place.device).view(rows, -1) % 236 + 20
    return table.to(torch.uint8), scales.to(torch.uint8)


def hashes(place: Place, tokens: int, rows: int) -> torch.Tensor:
    """Ids of the table's rows, first and last among them, of other ranks' rows on both sides, and dead ones."""
    ids = place.whole(place.generator(1), FIRST_ID - 20, FIRST_ID + rows + 20, tokens, COLUMNS)
    ids[::5] = -1
    ids[1, :4] = torch.tensor([FIRST_ID, FIRST_ID - 1, FIRST_ID + rows - 1, FIRST_ID + rows], device=place.device)
    return ids


def _compare(
    table: torch.Tensor, scales: torch.Tensor, ids: torch.Tensor, heads: int, first_head: int, background: bool = False
) -> Outcome:
    out = torch.full((ids.shape[0], heads, table.shape[1]), 7.0, dtype=torch.bfloat16, device=ids.device)
    wanted = torch.empty(out.shape, dtype=torch.bfloat16)
    engram.engram_lookup(table, scales, ids, out, FIRST_ID, first_head, background)
    engram.naive_engram_lookup(table.cpu(), scales.cpu(), ids.cpu(), wanted, FIRST_ID, first_head)
    return equal("out", out.cpu(), wanted)


def _on_the_device(place: Place) -> Outcome:
    rows, tokens = place.pick(100_000, 300), place.pick(2048, 13)
    table, scales = tables(place, rows)
    ids = hashes(place, tokens, rows)
    strided = ids.T.contiguous().T
    return worst(
        (
            _compare(table, scales, ids, 3, 0),
            _compare(table, scales, strided.int(), 5, 21),  # two heads past the last column
            _compare(table, scales, ids, 3, 9, background=True),
        )
    )


def _on_the_host(place: Place) -> Outcome:
    """A table in pinned host memory; without a GPU plain memory is what the interpreter reaches."""
    rows = place.pick(100_000, 300)
    table, scales = (one.cpu() for one in tables(place, rows))
    if place.device.type == "cuda":
        table, scales = table.pin_memory(), scales.pin_memory()
    return _compare(table, scales, hashes(place, place.pick(2048, 13), rows), 3, 3)


def _far(place: Place) -> Outcome:
    """Rows past 2^31 bytes."""
    rows = 2**31 // WIDTH + 4096
    table, scales = tables(place, 4096)
    far = torch.zeros((rows, WIDTH), dtype=torch.uint8, device=place.device)
    far_scales = torch.full((rows, WIDTH // GROUP), 127, dtype=torch.uint8, device=place.device)
    far[-4096:], far_scales[-4096:] = table, scales
    ids = place.whole(place.generator(2), FIRST_ID + rows - 4096, FIRST_ID + rows, 512, COLUMNS)
    return _compare(far, far_scales, ids, 3, 0)


CASES = (
    Case("rows of a table on the device", "engram", "an id of another rank served, a padded head left", _on_the_device),
    Case("rows of a table on the host", "engram", "host memory read wrongly", _on_the_host),
)

FAR_CASES = (Case("engram rows past 2^31", "engram", "row offsets in 32 bits", _far, gib=4),)
