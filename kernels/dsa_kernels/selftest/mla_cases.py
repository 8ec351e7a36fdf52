"""Self-test of sparse MLA attention: head counts, cache formats, and selections that break kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import relative_error, worst
from dsa_kernels.selftest.mla_inputs import (
    OUT_LIMIT,
    PAGE,
    Inputs,
    attend,
    flat,
    fp8_tokens,
    judge,
    judge_all,
    paged,
)

FORMATS = ("flat bf16", "paged bf16", "paged fp8_ds_mla")
HEADS = (8, 16, 64, 128)
_NAN = float("nan")


def make(place: Place, cache: str, tokens: int, heads: int, topk: int, seed: int = 0) -> Inputs:
    """Random inputs with one of `FORMATS`; pages lie apart, NaN between them."""
    rows = PAGE * -(-max(2 * topk, place.pick(16384, 128)) // PAGE)
    inputs = flat(place, tokens, heads, topk, rows, seed)
    if cache == "flat bf16":
        return inputs
    if cache == "paged bf16":
        return paged(inputs, "bf16", inputs.cache[:, 0], apart=True)
    return paged(inputs, "fp8_ds_mla", fp8_tokens(place, rows, seed + 2), apart=True)


def _shapes(cache: str, heads: int) -> Callable[[Place], Outcome]:
    """Few tokens, whose selection is split, and many, whose selection is not; top-k 2048 and 2051."""

    def run(place: Place) -> Outcome:
        few, many = place.pick(2, 1), place.pick(300 if heads <= 16 else 70, 3)
        return judge_all(
            (
                make(place, cache, few, heads, place.pick(2048, 80)),
                make(place, cache, many, heads, place.pick(2048, 48)),
                make(place, cache, few, heads, place.pick(2051, 67), seed=7),
            )
        )

    return run


def _nothing_valid(place: Place) -> Outcome:
    found = []
    for cache in FORMATS:
        inputs = make(place, cache, 5, 16, place.pick(2048, 70))
        inputs.indices[1] = -1
        inputs.indices[2] = inputs.cache.shape[0] * (PAGE if inputs.kv_format else 1)
        lengths = place.int32([70, 70, 70, 0, 1])
        sink = torch.linspace(-3, 3, 16, device=place.device)
        found += [judge(inputs), judge(replace(inputs, topk_length=lengths, attn_sink=sink))]
    return worst(found)


def _wild_indices(place: Place) -> Outcome:
    found = []
    for cache in FORMATS:
        inputs = make(place, cache, 3, 16, place.pick(2048, 70))
        rows = inputs.cache.shape[0] * (PAGE if inputs.kv_format else 1)
        wild = place.int32([-1, -2, -(2**31), rows, rows + 1, 2**31 - 1, 2**30])
        inputs.indices[0, 0, 3::7] = wild[0]
        inputs.indices[1, 0, : wild.numel()] = wild
        inputs.indices[1, 0, -wild.numel() :] = wild
        inputs.indices[2, 0, 1:] = wild[3]
        found.append(judge(inputs))
    return worst(found)


def _nan_elsewhere(place: Place) -> Outcome:
    found = []
    for cache in FORMATS:
        inputs = make(place, cache, 2, 16, place.pick(2048, 70))
        indices = inputs.indices
        # Rows 0 and the last, where invalid indices may be clamped to, are not selected.
        rows = inputs.cache.shape[0] * (PAGE if inputs.kv_format else 1)
        indices[(indices == 0) | (indices == rows - 1)] = -1
        indices[:, :, 5::9] = -1
        kept = torch.zeros(rows, dtype=torch.bool, device=place.device)
        kept[indices[indices >= 0].long()] = True
        if inputs.kv_format:
            page, offset = (~kept).nonzero()[:, 0] // PAGE, (~kept).nonzero()[:, 0] % PAGE
            fill = 0xFF if inputs.kv_format == "fp8_ds_mla" else _NAN
            inputs.cache[page, offset] = fill
        else:
            inputs.cache[~kept] = _NAN
        found.append(judge(inputs))
    return worst(found)


def _sink(place: Place) -> Outcome:
    infinite = float("inf")
    found = []
    for cache in FORMATS:
        inputs = make(place, cache, 3, 16, place.pick(2048, 70))
        sink = torch.linspace(-5, 9, 16, device=place.device)
        sink[3], sink[11] = -infinite, infinite
        found.append(judge(replace(inputs, attn_sink=sink)))
    return worst(found)


def _topk_length(place: Place) -> Outcome:
    topk = place.pick(2048, 70)
    lengths = place.int32([0, 1, 7, 64, 65, topk - 1, topk, topk + 5, -3])
    return judge_all(replace(make(place, cache, lengths.numel(), 16, topk), topk_length=lengths) for cache in FORMATS)


def _large_logits(place: Place) -> Outcome:
    found = []
    for cache in FORMATS[:2]:
        inputs = make(place, cache, 2, 16, place.pick(2048, 70))
        found.append(judge(replace(inputs, q=inputs.q * 128)))
        found.append(judge(replace(inputs, sm_scale=0.0)))
    return worst(found)


def _split_agrees(place: Place) -> Outcome:
    """A token alone, whose selection is split, against the same token among many, whose selection is not."""
    found = []
    for cache in FORMATS:
        whole = make(place, cache, place.pick(300, 4), 16, place.pick(2048, 150))
        one = replace(whole, q=whole.q[:1], indices=whole.indices[:1])
        many_out, many_lse, _ = attend(whole)
        out, lse, _ = attend(one)
        found.append(relative_error("out of the token alone", out, many_out[:1].double(), OUT_LIMIT))
        found.append(relative_error("lse of the token alone", lse, many_lse[:1].double(), 1e-6))
    return worst(found)


SHAPED = tuple(
    Case(
        f"{cache}, {heads} heads, top-k 2048 and 2051",
        "sparse_mla",
        "wrong sums at full size, split and unsplit, and at a width that no tile divides",
        _shapes(cache, heads),
        gib=3,
    )
    for cache in FORMATS
    for heads in HEADS
)

SELECTIONS = (
    Case("rows with nothing valid", "sparse_mla", "NaN where there is nothing to attend to", _nothing_valid),
    Case("negative and past-the-end indices", "sparse_mla", "a read outside the cache", _wild_indices),
    Case("NaN in rows that are not selected", "sparse_mla", "zero times NaN in masked rows", _nan_elsewhere),
    Case("attention sink", "sparse_mla", "a sink in the lse, or one of infinity", _sink),
    Case("topk_length from below 0 to past top-k", "sparse_mla", "entries read past the length", _topk_length),
    Case("logits of several hundred, and all equal", "sparse_mla", "exp that overflows", _large_logits),
    Case("a token alone and among many", "sparse_mla", "a merge of split selections that is off", _split_agrees),
)
