"""Triton functions on blocks of values: the k-th largest of them, exactly.

A value has an integer key that orders as the value does. The k-th largest value is found by narrowing an interval of
keys: each step counts the values that reach four points inside it, and stops as soon as exactly k reach its lower end.
Nothing is binned, so no distribution of values can overflow anything.
"""

import triton
import triton.language as tl

#: Key of the lowest finite value: every key that can be selected is at least this.
LOWEST_KEY = tl.constexpr(0x00800000)

#: A bound may be reached by an eighth more groups than asked for, where that leaves no more of them than this: then
#: about 3,600 elements of a long row reach it.
_MOST_REACHING = tl.constexpr(2400)

#: Added to a whole number below 2^23, leaves it in the lowest bits of the float.
_WHOLE = tl.constexpr(8388608.0)


@triton.jit
def ordered_key(value):
    """The uint32 key of a scalar that is not NaN: larger floats have larger keys, -0.0 the one below that of 0.0."""
    bits = value.to(tl.int32, bitcast=True)
    # All bits flip where the sign is set, the sign alone elsewhere.
    return (bits ^ ((bits >> 31) | -0x80000000)).to(tl.uint32, bitcast=True)


@triton.jit
def key_value(key):
    """The float whose key this is, at least `LOWEST_KEY`; NaN, which nothing reaches, above the key of infinity."""
    bits = key.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ -0x80000000, ~bits).to(tl.float32, bitcast=True)


@triton.jit
def population(words):
    """How many bits are set in each int32."""
    words = words.to(tl.uint32, bitcast=True)
    words -= (words >> 1) & 0x55555555
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def inner_points(low, high, step):
    """Four keys from low + step to high, nearer to each other at the lower end: what thinning leaves crowds there."""
    return low + step, low + 2 * step, tl.minimum(low + 4 * step, high), tl.minimum(low + 6 * step, high)


@triton.jit
def reaches(values, key):
    """1.0 for each value that reaches a key, 0.0 for others: a comparison into a float is one instruction."""
    return tl.where(values >= key_value(key), 1.0, 0.0)


@triton.jit
def whole_pairs(upper, lower):
    """Two whole numbers in one int32: 65,536 times the first plus the second."""
    return (upper * 65536.0 + lower + _WHOLE).to(tl.int32, bitcast=True) & 0x7FFFFF


@triton.jit
def count_block(values, points, AXIS: tl.constexpr):
    """How many of at most 32,767 values reach each of four keys, from one reduction of two sums."""
    one = tl.sum(reaches(values, points[0]), axis=AXIS)
    two = tl.sum(reaches(values, points[1]), axis=AXIS)
    three = tl.sum(reaches(values, points[2]), axis=AXIS)
    four = tl.sum(reaches(values, points[3]), axis=AXIS)
    lower, upper = tl.split(tl.sum(tl.join(whole_pairs(two, one), whole_pairs(four, three)), axis=0))
    return lower & 0xFFFF, lower >> 16, upper & 0xFFFF, upper >> 16


@triton.jit
def narrow(low, high, above_low, above_high, points, counts, k):
    """The part of [low, high) between two neighbouring points where the number of values that reach falls below k.

    And how many values reach its ends.
    """
    if counts[2] >= k:
        if counts[3] >= k:
            low, above_low = points[3], counts[3]
        else:
            low, above_low = points[2], counts[2]
            high, above_high = points[3], counts[3]
    elif counts[1] >= k:
        low, above_low = points[1], counts[1]
        high, above_high = points[2], counts[2]
    elif counts[0] >= k:
        low, above_low = points[0], counts[0]
        high, above_high = points[1], counts[1]
    else:
        high, above_high = points[0], counts[0]
    return low, high, above_low, above_high


@triton.jit
def block_threshold(values, low, high, reaching, k, slack, AXIS: tl.constexpr):
    """A key that at least k values of a block reach, as large as may be.

    Args:
        values: fp32 block [A, B] in registers.
        low: uint32, where to begin: nothing below it is wanted.
        high: uint32 above every key.
        reaching: how many values reach `low`.
        k: at least 1.
        slack: how many values more than k may reach it; 0 asks for the k-th largest.
        AXIS: along this axis the values lie in one thread (nothing but speed depends on it).

    Returns:
        The threshold; how many values reach it (fewer than k where fewer reach `low`); how many lie above it, where
        more than k + slack reach it.
    """
    above = tl.full((), 0, tl.int32)
    while (reaching > k + slack) & (high > low + 1):
        points = inner_points(low, high, tl.maximum((high - low) >> 3, 1))
        counts = count_block(values, points, AXIS)
        low, high, reaching, above = narrow(low, high, reaching, above, points, counts, k)
    return low, reaching, above


@triton.jit
def find_bound(maxima, k):
    """A key that at least k elements of a row reach, and one that none reaches, from the maxima of its groups.

    Where fewer than k groups hold anything, everything valid reaches the bound.
    """
    # The largest of the negatives is that of the smallest: one reduction for both.
    largest, negative = tl.split(tl.max(tl.join(maxima, -maxima), axis=0))
    low = tl.maximum(ordered_key(-negative), tl.full((), LOWEST_KEY, tl.uint32))
    high = ordered_key(largest) + 1
    reaching = tl.sum((maxima >= key_value(low)).to(tl.int32))
    # A bound that some more groups reach costs less than the last steps to the exact one.
    room = tl.full((), _MOST_REACHING, tl.int32) - k
    slack = tl.maximum(tl.minimum(k // 8, room), 0)
    fours = tl.reshape(maxima, (maxima.shape[0] // 4, 4))
    low, reaching, _ = block_threshold(fours, low, high, reaching, k, slack, 1)
    if reaching < k:
        low = tl.full((), LOWEST_KEY, tl.uint32)
    return low, high


@triton.jit
def sums_before(counts):
    """The sum of the counts before each, and of all.

    Inside a warp first, then over the sums of warps: Triton's scan of the whole block costs twice as much.

    Args:
        counts: int32 [A, B], in order along the second axis, then the first; B a multiple of 32.
    """
    A: tl.constexpr = counts.shape[0]
    B: tl.constexpr = counts.shape[1]
    lanes = tl.reshape(counts, (A, B // 32, 32))
    each = tl.reshape(tl.sum(lanes, axis=2), (A * B // 32,))
    before = tl.reshape(tl.cumsum(each) - each, (A, B // 32))
    found = tl.cumsum(lanes, axis=2) - lanes + before[:, :, None]
    return tl.reshape(found, (A, B)), tl.sum(each)


@triton.jit
def mark_selected(values, threshold, reaching, quota, taken, k):
    """Which values are selected: all that reach the threshold, of equal ones only the first `quota`.

    Args:
        values: fp32 [8, B] in order of position.
        threshold: fp32, as `block_threshold` found it for the whole row.
        reaching: how many values of the row reach it.
        quota: how many values equal to it are selected where more than k reach it.
        taken: how many values equal to it came before the block.
        k: results of the row.

    Returns:
        int32 [8, B] of 0 and 1; `taken` for the next block.
    """
    selected = (values >= threshold).to(tl.int32)
    if reaching > k:
        equal = (values == threshold).to(tl.int32)
        before, more = sums_before(equal)
        selected = tl.where((equal == 1) & (before + taken >= quota), 0, selected)
        taken += more
    return selected, taken
