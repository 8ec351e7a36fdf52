"""Triton kernels that select from a row what remains to be looked at: exact, whatever the values.

A value becomes an integer key that orders as the value does; 0 stands for what is never selected. The k-th largest key
is found by narrowing an interval: each step counts the keys at three points inside it, and stops as soon as exactly k
keys lie above its lower end. Where equal values straddle the end, the lowest positions among them are selected: the
result is the same whatever the timing. Nothing is binned, so no distribution of values can overflow anything.
"""

import triton
import triton.language as tl

#: Key of the lowest finite value: every key that can be selected is at least this.
LOWEST_KEY = tl.constexpr(0x00800000)

#: Three counts of 21 bits share one 64-bit sum: what a key adds that reaches two or three of the points.
_COUNT_MASK = tl.constexpr((1 << 21) - 1)
_REACHES_TWO = tl.constexpr(1 + (1 << 21))
_REACHES_THREE = tl.constexpr(1 + (1 << 21) + (1 << 42))


@triton.jit
def ordered_keys(bits):
    """Integer keys that order as the floats do.

    Args:
        bits: int32 block, bits of fp32 values.

    Returns:
        uint32 block: larger floats have larger keys, 0.0 and -0.0 the same; NaN and -inf give 0.
    """
    bits = tl.where(bits == -0x80000000, 0, bits)
    # All bits flip where the sign is set, the sign alone elsewhere.
    keys = (bits ^ ((bits >> 31) | -0x80000000)).to(tl.uint32, bitcast=True)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return tl.where(is_nan | (bits == -0x800000), 0, keys)


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
def count_reaching(keys, low, step):
    """How many keys reach low + step, low + 2 * step and low + 3 * step: three scalars from one reduction.

    Args:
        keys: uint32 block of fewer than 2^21 keys.
        low: uint32.
        step: uint32.
    """
    reached = (keys >= low + step).to(tl.int64)
    reached = tl.where(keys >= low + 2 * step, _REACHES_TWO, reached)
    reached = tl.where(keys >= low + 3 * step, _REACHES_THREE, reached)
    total = tl.sum(reached)
    one = (total & _COUNT_MASK).to(tl.int32)
    two = ((total >> 21) & _COUNT_MASK).to(tl.int32)
    return one, two, (total >> 42).to(tl.int32)


@triton.jit
def narrow(low, high, above_low, above_high, step, one, two, three, k):
    """The quarter of [low, high) in which the number of keys at or above falls below k, and that number at its ends."""
    if three >= k:
        low += 3 * step
        above_low = three
    elif two >= k:
        high = tl.minimum(high, low + 3 * step)
        above_high = three
        low += 2 * step
        above_low = two
    elif one >= k:
        high = tl.minimum(high, low + 2 * step)
        above_high = two
        low += step
        above_low = one
    else:
        high = tl.minimum(high, low + step)
        above_high = one
    return low, high, above_low, above_high


@triton.jit
def block_threshold(keys, low, k, slack):
    """A key that at least k keys of a block reach, as large as may be.

    Args:
        keys: uint32 block in registers.
        low: uint32, where to begin: nothing below it is wanted.
        k: at least 1.
        slack: how many keys more than k may reach it; 0 asks for the k-th largest.

    Returns:
        The threshold; how many keys reach it (fewer than k where fewer reach `low`); how many lie above it, where more
        than k + slack reach it.
    """
    high = tl.max(keys) + 1
    above_low = tl.sum((keys >= low).to(tl.int32))
    above_high = tl.full((), 0, tl.int32)
    while (above_low > k + slack) & (high > low + 1):
        step = tl.maximum((high - low) >> 2, 1)
        one, two, three = count_reaching(keys, low, step)
        low, high, above_low, above_high = narrow(low, high, above_low, above_high, step, one, two, three, k)
    return low, above_low, above_high


@triton.jit
def mark_selected(keys, threshold, reaching, quota, taken, k):
    """Which keys are selected: all that reach the threshold, of equal ones only the first `quota`.

    Args:
        keys: uint32 block in order of position.
        threshold: as `block_threshold` found it for the whole row.
        reaching: how many keys of the row reach it.
        quota: how many keys equal to it are selected where more than k reach it.
        taken: how many keys equal to it came before the block.
        k: results of the row.
    """
    selected = (keys >= threshold).to(tl.int32)
    if reaching > k:
        equal = (keys == threshold).to(tl.int32)
        selected = tl.where((equal == 1) & (tl.cumsum(equal) + taken > quota), 0, selected)
    return selected


@triton.jit
def fill_rest(out_ptr, written, k, BLOCK: tl.constexpr):
    """Write -1 behind the results of a row."""
    for start in range(written, k, BLOCK):
        places = start + tl.arange(0, BLOCK)
        tl.store(out_ptr + places, tl.full((BLOCK,), -1, tl.int32), mask=places < k)


@triton.jit
def load_keys(row_ptr, first, end, BLOCK: tl.constexpr):
    """Keys at [first, first + BLOCK), 0 from `end` on."""
    offsets = first + tl.arange(0, BLOCK)
    bits = tl.load(row_ptr + offsets, mask=offsets < end, other=float("-inf")).to(tl.int32, bitcast=True)
    return ordered_keys(bits)


@triton.jit
def count_row(row_ptr, first, end, low, step, BLOCK: tl.constexpr):
    """`count_reaching` over [first, end) of a row."""
    one = tl.full((), 0, tl.int32)
    two = tl.full((), 0, tl.int32)
    three = tl.full((), 0, tl.int32)
    for start in range(first, end, BLOCK):
        more = count_reaching(load_keys(row_ptr, start, end, BLOCK), low, step)
        one += more[0]
        two += more[1]
        three += more[2]
    return one, two, three


@triton.jit(
    do_not_specialize=["width", "row_stride", "k", "out_stride", "parts"],
    do_not_specialize_on_alignment=[
        "logits_ptr",
        "starts_ptr",
        "ends_ptr",
        "found_ptr",
        "counts_ptr",
        "bounds_ptr",
        "out_ptr",
    ],
)
def select_block_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    found_ptr,
    counts_ptr,
    bounds_ptr,
    out_ptr,
    width,
    row_stride,
    k,
    out_stride,
    parts,
    HAS_STARTS: tl.constexpr,
    THINNED: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Select from a row of at most BLOCK elements, or from the at most BLOCK positions that were gathered from it."""
    row = tl.program_id(0).to(tl.int64)
    origin, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    index = tl.arange(0, BLOCK)
    count = end - first
    positions = first + index
    low = tl.full((), LOWEST_KEY, tl.uint32)
    if THINNED:  # noqa: SIM102 - decided when compiling, the other when running
        if count > BLOCK:
            count = sum_counts(counts_ptr + row * parts, tl.cdiv(end - first // 32 * 32, CHUNK))
            positions = tl.load(found_ptr + row * BLOCK + index, mask=index < count, other=0)
            low = tl.load(bounds_ptr + row * 2).to(tl.uint32, bitcast=True)
    if count <= BLOCK:
        bits = tl.load(logits_ptr + row * row_stride + positions, mask=index < count, other=float("-inf"))
        keys = ordered_keys(bits.to(tl.int32, bitcast=True))
        threshold, reaching, above = block_threshold(keys, low, k, 0)
        selected = mark_selected(keys, threshold, reaching, k - above, 0, k)
        place = tl.cumsum(selected) - 1
        out_ptr += row * out_stride
        tl.store(out_ptr + place, positions - origin, mask=selected == 1)
        fill_rest(out_ptr, tl.minimum(reaching, k), k, BLOCK)


@triton.jit
def sum_counts(counts_ptr, parts):
    """The sum of the first `parts` counts."""
    total = tl.full((), 0, tl.int32)
    for start in range(0, parts, 128):
        index = start + tl.arange(0, 128)
        total += tl.sum(tl.load(counts_ptr + index, mask=index < parts, other=0))
    return total


@triton.jit(
    do_not_specialize=["width", "row_stride", "k", "out_stride", "parts"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "counts_ptr", "bounds_ptr", "out_ptr"],
)
def select_row_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    counts_ptr,
    bounds_ptr,
    out_ptr,
    width,
    row_stride,
    k,
    out_stride,
    parts,
    HAS_STARTS: tl.constexpr,
    CHUNK: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Select from a row of which more than LIMIT positions reach its bound: every step reads the whole row."""
    row = tl.program_id(0).to(tl.int64)
    origin, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    count = end - first
    if count > LIMIT:
        count = sum_counts(counts_ptr + row * parts, tl.cdiv(end - first // 32 * 32, CHUNK))
    if count > LIMIT:
        row_ptr = logits_ptr + row * row_stride
        low = tl.load(bounds_ptr + row * 2).to(tl.uint32, bitcast=True)
        high = tl.load(bounds_ptr + row * 2 + 1).to(tl.uint32, bitcast=True)
        reaching = count
        above = tl.full((), 0, tl.int32)
        # Many equal values are what brings rows here: ask first whether the bound itself is the threshold.
        step = tl.full((), 1, tl.uint32)
        while (reaching > k) & (high > low + 1):
            one, two, three = count_row(row_ptr, first, end, low, step, BLOCK)
            low, high, reaching, above = narrow(low, high, reaching, above, step, one, two, three, k)
            step = tl.maximum((high - low) >> 2, 1)
        out_ptr += row * out_stride
        written = tl.full((), 0, tl.int32)
        taken = tl.full((), 0, tl.int32)
        for start in range(first, end, BLOCK):
            keys = load_keys(row_ptr, start, end, BLOCK)
            selected = mark_selected(keys, low, reaching, k - above, taken, k)
            place = tl.cumsum(selected) + written - 1
            tl.store(out_ptr + place, start + tl.arange(0, BLOCK) - origin, mask=selected == 1)
            taken += tl.sum((keys == low).to(tl.int32))
            written += tl.sum(selected)
        fill_rest(out_ptr, written, k, BLOCK)
