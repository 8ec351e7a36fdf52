"""Self-test of the indexer's logits over the paged cache."""

from __future__ import annotations

import torch

from dsa_kernels import indexer
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import worst
from dsa_kernels.selftest.logits_inputs import PAGE, codes, judge, write_pages


def paged_inputs(
    place: Place, batch: int, next_n: int, heads: int, longest: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, cache, weights and block tables: pages in random order, all written, 3 more that are NaN."""
    width = -(-longest // PAGE)
    pages = batch * width + 3
    generator = place.generator(seed)
    cache = torch.full((pages, PAGE, 1, 132), 0xFF, dtype=torch.uint8, device=place.device)
    order = torch.randperm(pages, generator=generator, device=place.device)[: batch * width]
    slots = (order[:, None] * PAGE + torch.arange(PAGE, device=place.device)).reshape(-1)
    write_pages(place, cache, slots, seed + 1)
    q = codes(place, seed + 2, batch, next_n, heads, 128)
    weights = place.normal(generator, batch * next_n, heads)
    return q, cache, weights, order.reshape(batch, width).int()


def _compare(
    q: torch.Tensor,
    cache: torch.Tensor,
    weights: torch.Tensor,
    lengths: torch.Tensor,
    tables: torch.Tensor,
    width: int,
) -> Outcome:
    got = indexer.fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, width)
    return judge(got, indexer.naive_fp8_paged_mqa_logits(q, cache, weights, lengths, tables, width))


def _batch(place: Place, next_n: int, heads: int, per_row: bool) -> Outcome:
    batch, longest = place.pick(8, 3), place.pick(8197, 150)
    q, cache, weights, tables = paged_inputs(place, batch, next_n, heads, longest)
    shape = (batch, next_n) if per_row else (batch,)
    lengths = place.whole(place.generator(3), next_n, longest + 1, *shape).int()
    lengths[-1] = longest
    lengths[0] = next_n
    return _compare(q, cache, weights, lengths, tables, longest + 13)


def _next_n_1(place: Place) -> Outcome:
    return worst(_batch(place, 1, heads, per_row) for heads, per_row in ((64, False), (32, True)))


def _next_n_4(place: Place) -> Outcome:
    return worst(_batch(place, 4, heads, per_row) for heads, per_row in ((64, False), (64, True), (32, True)))


def _nothing_valid(place: Place) -> Outcome:
    longest = place.pick(1000, 150)
    q, cache, weights, tables = paged_inputs(place, 3, 4, 64, longest)
    short = place.int32([1, 3, longest])  # with 4 draft tokens: rows of length below 1
    nothing = place.int32([0, 0, 0])
    return worst(_compare(q, cache, weights, lengths, tables, longest) for lengths in (short, nothing))


def _no_pages(place: Place) -> Outcome:
    longest = place.pick(2000, 250)
    q, cache, weights, tables = paged_inputs(place, 2, 1, 64, longest)
    tables[1, 1:3] = place.int32([-1, 2**31 - 1])
    tables[0, 2] = cache.shape[0]
    lengths = place.int32([longest, longest])
    cut = tables[:, : tables.shape[1] - 1].contiguous()
    return worst(
        (
            _compare(q, cache, weights, lengths, tables, longest),
            _compare(q, cache, weights, lengths, cut, longest),
        )
    )


def _far(place: Place) -> Outcome:
    """Pages whose bytes lie past 2^31 and 2^32; the small size has the same addresses."""
    page_bytes = PAGE * 132
    pages = 2**32 // page_bytes + 40
    marks = (0, 2**31 // page_bytes, 2**32 // page_bytes)
    picked = [page + step for page in marks for step in (0, 1, 2)] + [pages - 1]
    cache = torch.empty((pages, PAGE, 1, 132), dtype=torch.uint8, device=place.device)
    at = torch.tensor(picked, device=place.device)
    near = torch.empty((len(picked), PAGE, 1, 132), dtype=torch.uint8, device=place.device)
    write_pages(place, near, torch.arange(len(picked) * PAGE, device=place.device), 4)
    cache[at] = near
    order = torch.randperm(len(picked), generator=place.generator(8), device=place.device)
    q = codes(place, 5, 1, 4, 64, 128)
    weights = place.normal(place.generator(6), 4, 64)
    length = len(picked) * PAGE - 3
    lengths = place.int32([length])
    got = indexer.fp8_paged_mqa_logits(q, cache, weights, lengths, at[order].int()[None, :], None, length)
    wanted = indexer.naive_fp8_paged_mqa_logits(q, near, weights, lengths, order.int()[None, :], length)
    return judge(got, wanted)


CASES = (
    Case("paged, next_n 1, random block tables", "indexer_logits", "keys of another page or request", _next_n_1),
    Case("paged, next_n 4, both forms of lengths", "indexer_logits", "draft rows that see too much", _next_n_4),
    Case("paged, rows with nothing valid", "indexer_logits", "lengths below 1", _nothing_valid),
    Case("paged, entries that are no page", "indexer_logits", "a read outside the cache", _no_pages),
)

FAR_CASES = (Case("paged cache past 2^31", "indexer_logits", "page offsets in 32 bits", _far, gib=5),)
