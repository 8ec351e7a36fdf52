"""Triton functions that read a row tile by tile, 16 bytes a load wherever the whole tile lies inside the row.

Elements are counted from the row's line: the last address before its first element that is a multiple of 128 bytes. So
tiles are aligned whatever the pointers, strides and starts are; the first element is number `lead`, and element `stop`
no longer belongs to the row.
"""

import triton
import triton.language as tl

from dsa_kernels.indexer.key_blocks import population, reaches, sums_before


@triton.jit
def row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS: tl.constexpr):
    """The row's own start, and [first, end) clamped to the columns that exist."""
    origin = 0
    if HAS_STARTS:
        origin = tl.load(starts_ptr + row).to(tl.int32)
    first = tl.minimum(tl.maximum(origin, 0), width)
    end = tl.maximum(tl.minimum(tl.load(ends_ptr + row).to(tl.int32), width), first)
    return origin, first, end


@triton.jit
def row_line(row_ptr, first, end):
    """The pointer to the row's line, `lead` and `stop`."""
    start_ptr = row_ptr + first
    lead = ((start_ptr.to(tl.int64) >> 2) & 31).to(tl.int32)
    return tl.multiple_of(start_ptr - lead, 128), lead, lead + end - first


@triton.jit
def load_tile(line_ptr, start, lead, stop, offsets, SIZE: tl.constexpr):
    """The values at start + offsets, -inf outside the row; offsets lie in [0, SIZE)."""
    if (start >= lead) & (start + SIZE <= stop):
        values = tl.load(line_ptr + start + offsets)
    else:
        places = start + offsets
        values = tl.load(line_ptr + places, mask=(places >= lead) & (places < stop), other=float("-inf"))
    return values


@triton.jit
def row_maxima(line_ptr, lead, stop, GROUPS: tl.constexpr, REPEATS: tl.constexpr):
    """The maxima of GROUPS groups of a row, -inf for nothing: group g is every GROUPS-th element.

    One tile is on its way while another is looked at.
    """
    SIZE: tl.constexpr = REPEATS * GROUPS
    offsets = tl.arange(0, REPEATS)[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
    best = tl.full((REPEATS, GROUPS), float("-inf"), tl.float32)
    following = load_tile(line_ptr, 0, lead, stop, offsets, SIZE)
    for start in range(SIZE, stop, SIZE):
        values = following
        following = load_tile(line_ptr, start, lead, stop, offsets, SIZE)
        best = larger(values, best)
    return tl.max(larger(following, best), axis=0)


@triton.jit
def larger(values, best):
    """The larger of each two; NaN among `values` never is."""
    return tl.where(values > best, values, best)


@triton.jit
def word_offsets(WORDS: tl.constexpr):
    """[WORDS, 32]: the elements of each word."""
    return tl.arange(0, WORDS)[:, None] * 32 + tl.arange(0, 32)[None, :]


@triton.jit
def marks(values, bound):
    """One bit for each value that reaches the bound.

    Args:
        values: fp32 [WORDS, 32].
        bound: fp32 scalar.

    Returns:
        int32 [WORDS].
    """
    WORDS: tl.constexpr = values.shape[0]
    bits = tl.where(values >= bound, 1 << tl.arange(0, 32)[None, :], 0)
    # Four neighbours lie in one thread.
    return tl.sum(tl.sum(tl.reshape(bits, (WORDS, 8, 4)), axis=2), axis=1)


@triton.jit
def mark_row(line_ptr, words_ptr, lead, stop, bound, WORDS: tl.constexpr):
    """One bit for each element of a row that reaches the bound: word w stands for elements 32 * w to 32 * w + 31."""
    SIZE: tl.constexpr = 32 * WORDS
    offsets = word_offsets(WORDS)
    index = tl.arange(0, WORDS)
    following = load_tile(line_ptr, 0, lead, stop, offsets, SIZE)
    for start in range(SIZE, stop, SIZE):
        values = following
        following = load_tile(line_ptr, start, lead, stop, offsets, SIZE)
        tl.store(words_ptr + index, marks(values, bound))
        words_ptr += WORDS
    tl.store(words_ptr + index, marks(following, bound))


@triton.jit
def gather_marked(words_ptr, found_ptr, count, LIMIT: tl.constexpr, WORDS: tl.constexpr):
    """Write the numbers of the first LIMIT elements marked in `count` words, ascending; how many are marked."""
    total = tl.full((), 0, tl.int32)
    for start in range(0, count, WORDS):
        index = start + tl.arange(0, WORDS)
        words = tl.load(words_ptr + index, mask=index < count, other=0)
        each = population(words)
        before, more = sums_before(tl.reshape(each, (2, WORDS // 2)))
        place = tl.reshape(before, (WORDS,)) + total
        total += more
        most = tl.max(each)
        for _ in range(most):
            lowest = words & -words
            element = index * 32 + population(lowest - 1)
            tl.store(found_ptr + place, element, mask=(words != 0) & (place < LIMIT))
            words ^= lowest
            place += 1
    return total


@triton.jit
def count_row(start_ptr, count, points, BLOCK: tl.constexpr):
    """How many elements of a row reach each of four keys."""
    one = tl.zeros((BLOCK,), tl.float32)
    two = tl.zeros((BLOCK,), tl.float32)
    three = tl.zeros((BLOCK,), tl.float32)
    four = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        values = load_part(start_ptr, start, count, BLOCK)
        one += reaches(values, points[0])
        two += reaches(values, points[1])
        three += reaches(values, points[2])
        four += reaches(values, points[3])
    return tl.sum(one.to(tl.int32)), tl.sum(two.to(tl.int32)), tl.sum(three.to(tl.int32)), tl.sum(four.to(tl.int32))


@triton.jit
def load_part(start_ptr, start, count, BLOCK: tl.constexpr):
    """BLOCK values from number `start` on, -inf from number `count` on."""
    index = start + tl.arange(0, BLOCK)
    return tl.load(start_ptr + index, mask=index < count, other=float("-inf"))
