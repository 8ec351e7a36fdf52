"""Triton kernels that thin a long row out: which of its positions can be among the k largest.

The k-th largest of the maxima of GROUPS groups cannot exceed the k-th largest value, so only what reaches it can be
selected: about 2,840 of 131,072 random values for 4,096 groups and k = 2,048. Group g is every GROUPS-th element, so
that neighbours with large values fall into different groups. Each row is shared by many programs, which read it twice
in all, each with all its loads in flight: maxima, the bound (one program a row), a bit for each position that reaches
it, and those positions in ascending order. Nothing here depends on timing. Rows of at most LIMIT elements are left out
everywhere.
"""

import triton
import triton.language as tl

from dsa_kernels.indexer.select_kernels import (
    LOWEST_KEY,
    block_threshold,
    ordered_keys,
    row_bounds,
    sum_counts,
)


@triton.jit
def population(words):
    """How many bits are set in each int32."""
    words = words.to(tl.uint32, bitcast=True)
    words -= (words >> 1) & 0x55555555
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24).to(tl.int32)


@triton.jit(
    do_not_specialize=["width", "row_stride"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "maxima_ptr"],
)
def maxima_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    maxima_ptr,
    width,
    row_stride,
    HAS_STARTS: tl.constexpr,
    LIMIT: tl.constexpr,
    GROUPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    REPEATS: tl.constexpr,
):
    """The keys of the maxima of COLUMNS groups of a row: maxima [M, GROUPS], uint32 bits.

    Program (row, part) reads COLUMNS neighbouring columns of every GROUPS, REPEATS such stretches at a time.
    """
    PARTS: tl.constexpr = GROUPS // COLUMNS
    row = tl.program_id(0).to(tl.int64) // PARTS
    group = tl.program_id(0) % PARTS * COLUMNS + tl.arange(0, COLUMNS)
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    if end - first > LIMIT:
        row_ptr = logits_ptr + row * row_stride
        offsets = tl.arange(0, REPEATS)[:, None] * GROUPS + group[None, :]  # [REPEATS, COLUMNS]
        best = tl.full((REPEATS, COLUMNS), float("-inf"), tl.float32)
        for start in range(first, end, REPEATS * GROUPS):
            values = tl.load(row_ptr + start + offsets, mask=offsets < end - start, other=float("-inf"))
            # False for NaN, which thus never wins.
            best = tl.where(values > best, values, best)
        keys = ordered_keys(tl.max(best, axis=0).to(tl.int32, bitcast=True))
        tl.store(maxima_ptr + row * GROUPS + group, keys.to(tl.int32, bitcast=True))


@triton.jit(
    do_not_specialize=["width", "k"],
    do_not_specialize_on_alignment=["starts_ptr", "ends_ptr", "maxima_ptr", "bounds_ptr"],
)
def bound_kernel(
    starts_ptr,
    ends_ptr,
    maxima_ptr,
    bounds_ptr,
    width,
    k,
    HAS_STARTS: tl.constexpr,
    LIMIT: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """A key that at least k elements of the row reach, and one that none reaches: bounds [M, 2], uint32 bits.

    Where fewer than k groups hold anything, everything valid reaches the bound.
    """
    row = tl.program_id(0).to(tl.int64)
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    if end - first > LIMIT:
        keys = tl.load(maxima_ptr + row * GROUPS + tl.arange(0, GROUPS)).to(tl.uint32, bitcast=True)
        lowest = tl.full((), LOWEST_KEY, tl.uint32)
        # A bound that a few more groups reach costs less than the last steps to the exact one.
        low, _, _ = block_threshold(keys, tl.maximum(tl.min(keys), lowest), k, k // 64)
        if tl.sum((keys >= low).to(tl.int32)) < k:
            low = lowest
        tl.store(bounds_ptr + row * 2, low.to(tl.int32, bitcast=True))
        tl.store(bounds_ptr + row * 2 + 1, (tl.max(keys) + 1).to(tl.int32, bitcast=True))


@triton.jit(
    do_not_specialize=["width", "row_stride", "parts"],
    do_not_specialize_on_alignment=[
        "logits_ptr",
        "starts_ptr",
        "ends_ptr",
        "bounds_ptr",
        "words_ptr",
        "counts_ptr",
    ],
)
def mark_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    bounds_ptr,
    words_ptr,
    counts_ptr,
    width,
    row_stride,
    parts,
    HAS_STARTS: tl.constexpr,
    LIMIT: tl.constexpr,
    WORDS: tl.constexpr,
):
    """One bit for each position that reaches the row's bound.

    Bit b of word w, words [M, parts * WORDS], stands for column first // 32 * 32 + 32 * w + b; counts [M, parts] say
    how many bits a part has. Parts that begin behind the row's end write nothing.
    """
    row = tl.program_id(0).to(tl.int64) // parts
    part = tl.program_id(0) % parts
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    start = first // 32 * 32 + part * (32 * WORDS)
    if (end - first > LIMIT) & (start < end):
        key = tl.load(bounds_ptr + row * 2)
        bound = tl.where(key < 0, key ^ -0x80000000, ~key).to(tl.float32, bitcast=True)
        # Four of a word's 32 bits lie in one thread: byte along the first axis, bits of a byte along the second.
        byte = tl.arange(0, 4)[:, None]
        lane = tl.arange(0, WORDS * 8)
        columns = start + byte * 8 + (lane // 8 * 32 + lane % 8)[None, :]  # [4, WORDS * 8]
        inside = (columns >= first) & (columns < end)
        values = tl.load(logits_ptr + row * row_stride + columns, mask=inside, other=float("-inf"))
        bits = tl.sum((values >= bound).to(tl.int32) << (byte * 8), axis=0) << (lane % 8)
        words = tl.sum(tl.reshape(bits, (WORDS, 8)), axis=1)
        index = tl.arange(0, WORDS)
        tl.store(words_ptr + (row * parts + part) * WORDS + index, words)
        tl.store(counts_ptr + row * parts + part, tl.sum(population(words)))


@triton.jit(
    do_not_specialize=["width", "parts"],
    do_not_specialize_on_alignment=["starts_ptr", "ends_ptr", "words_ptr", "counts_ptr", "found_ptr"],
)
def gather_kernel(
    starts_ptr,
    ends_ptr,
    words_ptr,
    counts_ptr,
    found_ptr,
    width,
    parts,
    HAS_STARTS: tl.constexpr,
    LIMIT: tl.constexpr,
    WORDS: tl.constexpr,
):
    """The marked positions of one part, behind those of the parts before it: found [M, LIMIT], ascending.

    What does not fit is not written; the counts tell.
    """
    row = tl.program_id(0).to(tl.int64) // parts
    part = tl.program_id(0) % parts
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    start = first // 32 * 32 + part * (32 * WORDS)
    if (end - first > LIMIT) & (start < end):
        counts_ptr += row * parts
        before = sum_counts(counts_ptr, part)
        if before + tl.load(counts_ptr + part) <= LIMIT:
            index = tl.arange(0, WORDS)
            words = tl.load(words_ptr + (row * parts + part) * WORDS + index)
            each = population(words)
            place = tl.cumsum(each) - each + before
            found_ptr += row * LIMIT
            most = tl.max(each)
            for _ in range(most):
                lowest = words & -words
                position = start + index * 32 + population(lowest - 1)
                tl.store(found_ptr + place, position, mask=words != 0)
                words ^= lowest
                place += 1
