"""Self-test of dsa-doctor's top-k against a full, stable sort of every row."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dsa_kernels import indexer
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import equal, worst
from dsa_kernels.selftest.topk_rows import FINITE, INF, noise


def _check(logits: torch.Tensor, starts: torch.Tensor | None, ends: torch.Tensor, k: int) -> Outcome:
    # What is not written shows.
    out = torch.full((logits.shape[0], k), -77, dtype=torch.int32, device=logits.device)
    indexer.topk_indices(logits, starts, ends, k, out=out)
    # On the CPU: the sort of the device that is tested is no judge.
    first = None if starts is None else starts.cpu()
    return equal("index", out.cpu(), indexer.naive_topk_indices(logits.cpu(), first, ends.cpu(), k))


def _k(place: Place) -> int:
    return place.pick(2048, 100)


def _values(name: str) -> Callable[[Place], Outcome]:
    """A row shared by programs, rows of one program each; whole and unaligned lengths."""

    def run(place: Place) -> Outcome:
        width = place.pick(131_075, 4700)
        few = FINITE[name](place, 2, width)
        ends = place.int32([width, width - 1031])
        many = FINITE[name](place, place.pick(160, 3), place.pick(9001, 700))
        many_ends = torch.full((many.shape[0],), many.shape[1], dtype=torch.int32, device=place.device)
        many_ends[::3] -= 333
        found = [_check(few, None, ends, _k(place)), _check(many, None, many_ends, _k(place))]
        return worst((*found, _check(few, None, ends, _k(place) + 3)))

    return run


def _between_k_and_2k(place: Place) -> Outcome:
    """Contexts of 1 to 2k + 1, in rows as wide as the context and in much wider ones."""
    k = _k(place)
    lengths = [1, 2, k // 2, k - 1, k, k + 1, k + 2, k + k // 3, 3 * k // 2, 2 * k - 1, 2 * k, 2 * k + 1]
    found = []
    for name in ("random", "narrow range", "all equal", "one bit apart"):
        for width in (2 * k + 1, place.pick(65_537, 4500)):
            logits = FINITE[name](place, len(lengths), width)
            found.append(_check(logits, None, place.int32(lengths), k))
    return worst(found)


def _bounds(place: Place) -> Outcome:
    width = place.pick(20_011, 5200)
    starts = [0, 17, 4096, 5000, 5, width, -3, 100, width - 1]
    ends = [1, width, 4500, 5003, 5, width + 9, 50, 20, width]
    logits = noise(place, len(starts), width)
    logits[:, ::1000] = INF
    return worst(_check(logits, place.int32(starts), place.int32(ends), k) for k in (_k(place), 33))


def _nan_and_infinities(place: Place) -> Outcome:
    """Long, medium and short rows; of the last, more are infinite than are asked for."""
    found = []
    for rows, width in ((2, place.pick(131_075, 4700)), (place.pick(160, 3), place.pick(9001, 700)), (3, 3999)):
        logits = noise(place, rows, width)
        position = torch.arange(width, device=place.device)
        logits[:, position % 5 == 0] = -INF
        logits[:, position % 7 == 0] = float("nan")
        logits[:, position % 501 == 3] = INF
        logits.view(torch.int32)[:, position % 11 == 0] = -1  # a NaN with the sign set
        logits[0] = torch.where(position % 2 == 0, -INF, float("nan"))
        ends = torch.full((rows,), width, dtype=torch.int32, device=place.device)
        found += [_check(logits, None, ends, k) for k in (_k(place), 5)]
    return worst(found)


def _million(place: Place) -> Outcome:
    width = place.pick(2**20, 9000)
    names = ("random", "narrow range", "one bit apart", "all equal")
    logits = torch.cat([FINITE[name](place, 1, width) for name in names])
    found = [_check(logits, None, place.int32([width] * 4), _k(place))]
    found += [_check(logits[row : row + 1], None, place.int32([width - row]), _k(place)) for row in range(4)]
    return worst(found)


def _draft_rows(place: Place) -> Outcome:
    """next_n 4: two-dimensional ends, logits that are a slice of a wider buffer."""
    wide = noise(place, 12, place.pick(16_500, 5000))
    logits = wide[:, 500:-17]
    longest = logits.shape[1]
    ends = place.int32([longest - 5, longest - 300, 7]).reshape(3, 1) + place.int32([0, 1, 2, 3])
    return _check(logits, None, ends, _k(place))


def _far_rows(place: Place) -> Outcome:
    """Rows that begin past 2^31 elements."""
    far = torch.empty(2**31 + 8192, dtype=torch.float32, device=place.device)
    logits = far.as_strided((5, 6000), (2**29, 1))
    logits.copy_(noise(place, 5, 6000))
    return _check(logits, None, place.int32([6000, 5999, 6000, 4097, 6000]), _k(place))


_PROVOKES = {
    "narrow range": "candidates that a coarse histogram cannot tell apart",
    "all equal": "more ties than any candidate buffer holds",
    "one bit apart": "a radix pass that stops too early",
    "crowded bin": "more candidates in one bin than a buffer holds",
}

CASES = (
    Case("context from 1 to 2k + 1", "topk", "short rows taken for long ones, or k for all", _between_k_and_2k),
    *(
        Case(f"values: {name}", "topk", _PROVOKES.get(name, "a wrong order of values"), _values(name))
        for name in FINITE
    ),
    Case("starts above 0, bounds outside the row", "topk", "values outside a row's bounds", _bounds),
    Case("-inf, inf and NaN of both signs", "topk", "selecting what must never be selected", _nan_and_infinities),
    Case("rows of a million", "topk", "long rows that several programs share", _million),
    Case("next_n 4, unaligned slices", "topk", "row ends of draft tokens", _draft_rows),
)

FAR_CASES = (Case("logits past 2^31 elements", "topk", "row offsets in 32 bits", _far_rows, gib=9),)
