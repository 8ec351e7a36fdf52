"""The Triton kernel that selects from a row: exact, whatever the values.

Where equal values straddle the end, the lowest positions among them are selected: the result is the same whatever the
timing.
"""

import triton
import triton.language as tl

from dsa_kernels.indexer.key_blocks import (
    LOWEST_KEY,
    block_threshold,
    find_bound,
    inner_points,
    key_value,
    mark_selected,
    narrow,
    ordered_key,
    sums_before,
)
from dsa_kernels.indexer.row_tiles import (
    count_row,
    gather_marked,
    load_part,
    mark_row,
    row_bounds,
    row_line,
    row_maxima,
)


@triton.jit(
    do_not_specialize=["width", "limit", "row_stride", "k", "out_stride", "word_stride"],
    do_not_specialize_on_alignment=[
        "logits_ptr",
        "starts_ptr",
        "ends_ptr",
        "found_ptr",
        "words_ptr",
        "bounds_ptr",
        "out_ptr",
    ],
)
def select_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    found_ptr,
    words_ptr,
    bounds_ptr,
    out_ptr,
    width,
    limit,
    row_stride,
    k,
    out_stride,
    word_stride,
    HAS_STARTS: tl.constexpr,
    LONG: tl.constexpr,
    GROUPS: tl.constexpr,
    REPEATS: tl.constexpr,
    MARK_WORDS: tl.constexpr,
    GATHER_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Select from one row.

    Up to BLOCK elements are selected from as they are. A longer row is thinned out first; up to `limit` elements here,
    beyond that the thinning kernels have left its marks and bounds. Where more than BLOCK elements are left, every step
    reads the whole row. LONG says whether any row can be longer than BLOCK.
    """
    row = tl.program_id(0).to(tl.int64)
    origin, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    count = end - first
    line_ptr, lead, stop = row_line(logits_ptr + row * row_stride, first, end)
    out_ptr += row * out_stride
    shift = first - lead - origin  # from the number of an element to its result
    index = tl.arange(0, BLOCK)
    elements = lead + index
    low = tl.full((), LOWEST_KEY, tl.uint32)
    high = low
    total = count
    if LONG:  # noqa: SIM102 - decided when compiling, the other when running
        if count > BLOCK:
            words_ptr += row * word_stride
            found_ptr += row * BLOCK
            if count > limit:
                low = tl.load(bounds_ptr + row * 2).to(tl.uint32, bitcast=True)
                high = tl.load(bounds_ptr + row * 2 + 1).to(tl.uint32, bitcast=True)
            else:
                low, high = find_bound(row_maxima(line_ptr, lead, stop, GROUPS, REPEATS), k)
                mark_row(line_ptr, words_ptr, lead, stop, key_value(low), MARK_WORDS)
                tl.debug_barrier()
            total = gather_marked(words_ptr, found_ptr, tl.cdiv(stop, 32), BLOCK, GATHER_WORDS)
            tl.debug_barrier()
            elements = tl.load(found_ptr + index, mask=index < total, other=0)
    if LONG and total > BLOCK:
        select_from_all(line_ptr + lead, count, out_ptr, first - origin, low, high, total, k, BLOCK)
    else:
        values = tl.load(line_ptr + elements, mask=index < total, other=float("-inf"))
        if count <= BLOCK:
            # NaN is not the largest.
            high = ordered_key(tl.max(tl.where(values >= key_value(low), values, float("-inf")))) + 1
            total = tl.sum((values >= key_value(low)).to(tl.int32))
        values = tl.reshape(values, (8, BLOCK // 8))
        threshold, reaching, above = block_threshold(values, low, high, total, k, 0, 0)
        none = tl.full((), 0, tl.int32)
        selected, _ = mark_selected(values, key_value(threshold), reaching, k - above, none, k)
        written = write_selected(out_ptr, selected, elements + shift, none, BLOCK)
        fill_rest(out_ptr, written, k, BLOCK)


@triton.jit
def select_from_all(start_ptr, count, out_ptr, shift, low, high, reaching, k, BLOCK: tl.constexpr):
    """Select from a row of which too much reaches the bound `low`: every step reads it."""
    above = tl.full((), 0, tl.int32)
    # Many equal values are what brings rows here: ask first whether the bound itself is the threshold.
    step = tl.full((), 1, tl.uint32)
    while (reaching > k) & (high > low + 1):
        points = inner_points(low, high, step)
        counts = count_row(start_ptr, count, points, BLOCK)
        low, high, reaching, above = narrow(low, high, reaching, above, points, counts, k)
        step = tl.maximum((high - low) >> 3, 1)
    written = tl.full((), 0, tl.int32)
    taken = tl.full((), 0, tl.int32)
    for start in range(0, count, BLOCK):
        values = tl.reshape(load_part(start_ptr, start, count, BLOCK), (8, BLOCK // 8))
        selected, taken = mark_selected(values, key_value(low), reaching, k - above, taken, k)
        written = write_selected(out_ptr, selected, start + tl.arange(0, BLOCK) + shift, written, BLOCK)
    fill_rest(out_ptr, written, k, BLOCK)


@triton.jit
def write_selected(out_ptr, selected, results, written, BLOCK: tl.constexpr):
    """Write the results [BLOCK] that are selected [8, BLOCK / 8] behind `written` others; how many there are then."""
    before, more = sums_before(selected)
    place = written + tl.reshape(before, (BLOCK,))
    tl.store(out_ptr + place, results, mask=tl.reshape(selected, (BLOCK,)) == 1)
    return written + more


@triton.jit
def fill_rest(out_ptr, written, k, BLOCK: tl.constexpr):
    """Write -1 behind the results of a row."""
    for start in range(written, k, BLOCK):
        places = start + tl.arange(0, BLOCK)
        tl.store(out_ptr + places, tl.full((BLOCK,), -1, tl.int32), mask=places < k)
