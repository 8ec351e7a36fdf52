"""Triton kernels that share the thinning of few long rows among many programs.

The k-th largest of the maxima of GROUPS groups cannot exceed the k-th largest value, so only what reaches it can be
selected: about 2,840 of 131,072 random values for 4,096 groups and k = 2,048. Group g is every GROUPS-th element, so
that neighbours with large values fall into different groups. Maxima, the bound (one program a row), a bit for each
element that reaches it. Nothing here depends on timing. Rows of at most `limit` elements are left out: one program
does all that for them.
"""

import triton
import triton.language as tl

from dsa_kernels.indexer.key_blocks import find_bound, key_value
from dsa_kernels.indexer.row_tiles import larger, load_tile, marks, row_bounds, row_line, word_offsets


@triton.jit(
    do_not_specialize=["width", "limit", "row_stride"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "maxima_ptr"],
)
def maxima_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    maxima_ptr,
    width,
    limit,
    row_stride,
    HAS_STARTS: tl.constexpr,
    GROUPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    REPEATS: tl.constexpr,
):
    """The maxima of COLUMNS groups of a row: maxima [M, GROUPS] fp32, -inf for nothing.

    Program (row, part) reads COLUMNS neighbouring columns of every GROUPS, REPEATS such stretches at a time.
    """
    PARTS: tl.constexpr = GROUPS // COLUMNS
    row = tl.program_id(0).to(tl.int64) // PARTS
    group = tl.program_id(0) % PARTS * COLUMNS + tl.arange(0, COLUMNS)
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    if end - first > limit:
        line_ptr, lead, stop = row_line(logits_ptr + row * row_stride, first, end)
        offsets = tl.arange(0, REPEATS)[:, None] * GROUPS + group[None, :]  # [REPEATS, COLUMNS]
        best = tl.full((REPEATS, COLUMNS), float("-inf"), tl.float32)
        for start in range(0, stop, REPEATS * GROUPS):
            best = larger(load_tile(line_ptr, start, lead, stop, offsets, REPEATS * GROUPS), best)
        tl.store(maxima_ptr + row * GROUPS + group, tl.max(best, axis=0))


@triton.jit(
    do_not_specialize=["width", "limit", "k"],
    do_not_specialize_on_alignment=["starts_ptr", "ends_ptr", "maxima_ptr", "bounds_ptr"],
)
def bound_kernel(
    starts_ptr,
    ends_ptr,
    maxima_ptr,
    bounds_ptr,
    width,
    limit,
    k,
    HAS_STARTS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """What `find_bound` finds: bounds [M, 2], uint32 bits."""
    row = tl.program_id(0).to(tl.int64)
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    if end - first > limit:
        low, high = find_bound(tl.load(maxima_ptr + row * GROUPS + tl.arange(0, GROUPS)), k)
        tl.store(bounds_ptr + row * 2, low.to(tl.int32, bitcast=True))
        tl.store(bounds_ptr + row * 2 + 1, high.to(tl.int32, bitcast=True))


@triton.jit(
    do_not_specialize=["width", "limit", "row_stride", "parts"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "bounds_ptr", "words_ptr"],
)
def mark_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    bounds_ptr,
    words_ptr,
    width,
    limit,
    row_stride,
    parts,
    HAS_STARTS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """One bit for each element that reaches the row's bound: words [M, parts * WORDS], as `mark_row` writes them.

    Parts behind the row's end write nothing.
    """
    row = tl.program_id(0).to(tl.int64) // parts
    part = tl.program_id(0) % parts
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    line_ptr, lead, stop = row_line(logits_ptr + row * row_stride, first, end)
    start = part * (32 * WORDS)
    if (end - first > limit) & (start < stop):
        bound = key_value(tl.load(bounds_ptr + row * 2).to(tl.uint32, bitcast=True))
        values = load_tile(line_ptr, start, lead, stop, word_offsets(WORDS), 32 * WORDS)
        tl.store(words_ptr + (row * parts + part) * WORDS + tl.arange(0, WORDS), marks(values, bound))
