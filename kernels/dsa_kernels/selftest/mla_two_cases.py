"""Self-test of sparse MLA attention over two caches: DeepSeek-V4's sliding window and its compressed rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.mla_inputs import Inputs, distinct_indices, judge, judge_all

#: Rows of a page of both caches, in layers that compress 4 tokens to one and 128.
PAGES = ((64, 64), (64, 2))
HEADS = (8, 16, 64, 128)
_NAN = float("nan")


def make(
    place: Place,
    tokens: int,
    heads: int,
    widths: tuple[int, int],
    page_sizes: tuple[int, int] = PAGES[0],
    seed: int = 0,
) -> Inputs:
    """Random rows in two caches whose pages lie apart, NaN between them; every index valid."""
    generator = place.generator(seed)
    caches = []
    for width, page_size in zip(widths, page_sizes, strict=True):
        pages = -(-max(2 * width, place.pick(8192, 64)) // page_size)
        room = torch.full((2 * pages, page_size, 1, 512), _NAN, dtype=torch.bfloat16, device=place.device)
        room[1::2] = place.normal(generator, pages, page_size, 1, 512).to(torch.bfloat16)
        caches.append(room[1::2])
    q = place.normal(generator, tokens, heads, 512).to(torch.bfloat16)
    first, second = (
        distinct_indices(place, tokens, width, cache.shape[0] * cache.shape[1], seed + 1 + at)
        for at, (width, cache) in enumerate(zip(widths, caches, strict=True))
    )
    return Inputs(q, caches[0], first, "bf16", 512**-0.5, extra_kv_cache=caches[1], extra_indices=second)


def _usual(place: Place) -> tuple[int, int]:
    return place.pick(128, 40), place.pick(512, 70)


def _shapes(heads: int) -> Callable[[Place], Outcome]:
    """Few tokens, whose selections are split, and many; widths of V4's layers, and some that no tile divides."""

    def run(place: Place) -> Outcome:
        few, many = place.pick(2, 1), place.pick(300 if heads <= 16 else 70, 3)
        odd = place.pick(193, 7), place.pick(1023, 33)
        return judge_all(
            (
                make(place, few, heads, _usual(place)),
                make(place, many, heads, _usual(place), PAGES[1]),
                make(place, few, heads, odd, PAGES[1], seed=7),
            )
        )

    return run


def _lengths(place: Place) -> Outcome:
    width, extra_width = _usual(place)
    lengths = place.int32([0, width, 1, 17, 5000, -3, width - 1])
    extra_lengths = place.int32([extra_width, 0, 33, extra_width - 1, 16, -1, 5000])
    inputs = make(place, lengths.numel(), 16, (width, extra_width), PAGES[1])
    stale = place.int32([2**31 - 1, -(2**31), 0, 2**30])
    for indices, ends in ((inputs.indices, lengths), (inputs.extra_indices, extra_lengths)):
        assert indices is not None
        for token, end in enumerate(ends.tolist()):
            tail = indices[token, 0, max(end, 0) :]
            tail.copy_(stale.repeat(tail.numel() // 4 + 1)[: tail.numel()])
    return judge(replace(inputs, topk_length=lengths, extra_topk_length=extra_lengths))


def _own_cache(place: Place) -> Outcome:
    """Entries past the end of one cache that lie inside the other, or would if both were one."""
    inputs = make(place, 3, 16, _usual(place), PAGES[1])
    assert inputs.extra_kv_cache is not None
    assert inputs.extra_indices is not None
    rows, extra_rows = (cache.shape[0] * cache.shape[1] for cache in (inputs.cache, inputs.extra_kv_cache))
    short = inputs.extra_kv_cache[: extra_rows // 4]
    inputs.indices[0, 0, ::3] = rows
    inputs.indices[1, 0, ::7] = 3 * rows
    inputs.extra_indices.remainder_(short.shape[0] * short.shape[1])
    inputs.extra_indices[0, 0, ::3] = short.shape[0] * short.shape[1]
    inputs.extra_indices[2, 0, ::5] = rows - 1
    inputs.extra_indices[1, 0, 1::2] = -1
    return judge(replace(inputs, extra_kv_cache=short))


def _nothing_valid(place: Place) -> Outcome:
    inputs = make(place, 4, 16, _usual(place))
    assert inputs.extra_indices is not None
    inputs.indices[:2] = -1
    inputs.extra_indices[1:3] = -1
    sink = torch.linspace(-3, 3, 16, device=place.device)
    one, none = replace(inputs, q=inputs.q[1:2], indices=inputs.indices[1:2]), place.int32([0])
    alone = replace(one, extra_indices=inputs.extra_indices[1:2], topk_length=none, extra_topk_length=none)
    return judge_all((inputs, replace(inputs, attn_sink=sink), alone))


def _sink(place: Place) -> Outcome:
    sink = torch.linspace(-5, 9, 16, device=place.device)
    sink[3], sink[11] = -float("inf"), float("inf")
    few, many = (make(place, tokens, 16, _usual(place)) for tokens in (2, place.pick(300, 4)))
    return judge_all((replace(few, attn_sink=sink), replace(many, attn_sink=sink)))


def _far(place: Place) -> Outcome:
    """Pages of both caches lie more than 2^31 elements apart; untouched memory costs nothing on the CPU."""
    stride = 2**31 + 2**12
    near = make(place, 2, 16, (100, 5), PAGES[1])
    assert near.extra_kv_cache is not None
    assert near.extra_indices is not None
    room = torch.empty(2 * stride + 2**16, dtype=torch.bfloat16, device=place.device)
    kept, far = [cache[:3].contiguous() for cache in (near.cache, near.extra_kv_cache)], []
    for cache, offset in zip(kept, (0, 2**15), strict=True):
        far.append(torch.as_strided(room, cache.shape, (stride, 512, 512, 1), offset))
        far[-1].copy_(cache)
    indices, extra_indices = near.indices % (3 * PAGES[1][0]), near.extra_indices % (3 * PAGES[1][1])
    known = replace(near, cache=kept[0], extra_kv_cache=kept[1], indices=indices, extra_indices=extra_indices)
    return judge(replace(known, cache=far[0], extra_kv_cache=far[1]), known)


CASES = (
    *(
        Case(f"two caches, {heads} heads", "sparse_mla", "wrong sums where one cache ends and the other begins", run)
        for heads, run in ((heads, _shapes(heads)) for heads in HEADS)
    ),
    Case("two caches, lengths and stale tails", "sparse_mla", "entries read past either length", _lengths),
    Case("two caches, entries past the end of one", "sparse_mla", "bounds of the other cache", _own_cache),
    Case("two caches, nothing valid in one or both", "sparse_mla", "NaN, or one cache in place of two", _nothing_valid),
    Case("two caches, one sink", "sparse_mla", "a sink for each cache, or in the lse", _sink),
)

FAR_CASES = (Case("two caches with pages past 2^31", "sparse_mla", "page offsets in 32 bits", _far, gib=9),)
