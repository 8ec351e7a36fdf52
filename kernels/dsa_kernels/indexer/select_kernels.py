"""Triton kernels of the exact top-k: a radix select over all 32 bits of the value, 8 bits a pass.

A value becomes an integer key that orders as the value does; 0 stands for what is never selected. Four passes narrow
the k-th largest key down, most significant digit first: each counts the digits of the keys that share the prefix found
so far. The last step walks the row in order and writes every position whose key is larger, and the lowest positions
among the equal ones: the result is the same whatever the timing.

A long row is thinned out first: the k-th largest of the maxima of BLOCK groups cannot exceed the k-th largest value, so
only what reaches it can be selected. Where that fits one block, the passes run on it in registers; where it does not
(equal values, large k), they run on the whole row. No distribution of values can overflow anything.
"""

import triton
import triton.language as tl


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
def load_keys(row_ptr, first, end, BLOCK: tl.constexpr):
    """Keys at [first, first + BLOCK), 0 from `end` on."""
    offsets = first + tl.arange(0, BLOCK)
    bits = tl.load(row_ptr + offsets, mask=offsets < end, other=float("-inf")).to(tl.int32, bitcast=True)
    return ordered_keys(bits)


@triton.jit
def load_key_blocks(row_ptr, first, end, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Keys at [first, first + BLOCKS * BLOCK) as [BLOCKS, BLOCK], 0 from `end` on: many loads in flight at once."""
    offsets = first + tl.arange(0, BLOCKS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    bits = tl.load(row_ptr + offsets, mask=offsets < end, other=float("-inf")).to(tl.int32, bitcast=True)
    return ordered_keys(bits)


@triton.jit
def count_digits(row_ptr, first, end, prefix, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    """Count digit (key >> SHIFT) & 255 of the keys in [first, end) whose higher bits equal `prefix`: [256] int32."""
    counts = tl.zeros((256,), tl.int32)
    for start in range(first, end, BLOCK):
        keys = load_keys(row_ptr, start, end, BLOCK)
        counted = keys != 0
        if SHIFT < 24:
            counted &= (keys >> (SHIFT + 8)) == prefix
        digits = ((keys >> SHIFT) & 255).to(tl.int32)
        if tl.max(counted.to(tl.int32)) > 0:
            counts += tl.histogram(digits, 256, mask=counted)
    return counts


@triton.jit
def pick_digit(counts, wanted):
    """The digit of the wanted-th largest key.

    Args:
        counts: [256] int32, keys by digit.
        wanted: keys still to be found, 1 to the sum of counts.

    Returns:
        The digit, and how many keys with larger digits there are.
    """
    digits = tl.arange(0, 256)
    above = tl.sum(counts) - tl.cumsum(counts)
    chosen = (above < wanted) & (above + counts >= wanted)
    return tl.sum(tl.where(chosen, digits, 0)), tl.sum(tl.where(chosen, above, 0))


@triton.jit
def emit_positions(out_ptr, row_ptr, first, end, origin, threshold, quota, written, taken, BLOCK: tl.constexpr):
    """Write the selected positions of [first, end) in ascending order.

    Args:
        out_ptr: start of the row's result.
        row_ptr: start of the row.
        first: where to begin.
        end: where to stop.
        origin: position that the results count from.
        threshold: key of the k-th largest.
        quota: how many keys equal to the threshold are selected in the whole row.
        written: results written before `first`.
        taken: keys equal to the threshold met before `first`.
        BLOCK: elements of a step.

    Returns:
        results written before `end`.
    """
    for start in range(first, end, BLOCK):
        keys = load_keys(row_ptr, start, end, BLOCK)
        # A row with nothing to select has the threshold 0, which is no key.
        equal = (keys == threshold) & (keys != 0)
        if tl.max((keys >= threshold).to(tl.int32)) > 0:
            order = tl.cumsum(equal.to(tl.int32)) + taken
            selected = (keys > threshold) | (equal & (order <= quota))
            place = tl.cumsum(selected.to(tl.int32)) + written - 1
            position = start + tl.arange(0, BLOCK) - origin
            tl.store(out_ptr + place, position, mask=selected)
            taken += tl.sum(equal.to(tl.int32))
            written += tl.sum(selected.to(tl.int32))
    return written


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
def fill_rest(out_ptr, written, k, BLOCK: tl.constexpr):
    """Write -1 behind the results of a row."""
    for start in range(written, k, BLOCK):
        places = start + tl.arange(0, BLOCK)
        tl.store(out_ptr + places, tl.full((BLOCK,), -1, tl.int32), mask=places < k)


@triton.jit
def block_threshold(keys, k):
    """The k-th largest key of a block in registers.

    Args:
        keys: [BLOCK] uint32.
        k: at least 1.

    Returns:
        The threshold (0 when no key is above 0), how many keys equal to it are selected, and how many keys in all.
    """
    valid = keys != 0
    counts = tl.histogram((keys >> 24).to(tl.int32), 256, mask=valid)
    wanted = tl.minimum(tl.sum(counts), k)
    digit, above = pick_digit(counts, wanted)
    prefix = digit.to(tl.uint32)
    left = wanted - above
    for SHIFT in tl.static_range(16, -1, -8):
        sharing = valid & ((keys >> (SHIFT + 8)) == prefix)
        counts = tl.histogram(((keys >> SHIFT) & 255).to(tl.int32), 256, mask=sharing)
        digit, above = pick_digit(counts, left)
        prefix = (prefix << 8) | digit.to(tl.uint32)
        left -= above
    return prefix, left, wanted


@triton.jit(
    do_not_specialize=["width", "row_stride", "k"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "found_ptr", "count_ptr"],
)
def thin_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    found_ptr,
    count_ptr,
    width,
    row_stride,
    k,
    HAS_STARTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the positions of a row that can be selected, ascending, to found [M, BLOCK], and how many to count [M].

    Group g is every BLOCK-th element from the row's first + g on. At most BLOCK positions are written; a larger count
    says that they did not fit.
    """
    row = tl.program_id(0).to(tl.int64)
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    row_ptr = logits_ptr + row * row_stride
    found_ptr += row * BLOCK
    bound = tl.full((), 1, tl.uint32)
    if end - first > BLOCK:
        maxima = tl.zeros((BLOCK,), tl.uint32)
        for start in range(first, end, BLOCKS * BLOCK):
            maxima = tl.maximum(maxima, tl.max(load_key_blocks(row_ptr, start, end, BLOCKS, BLOCK), axis=0))
        lowest, _, wanted = block_threshold(maxima, k)
        # Where fewer than k groups hold anything, everything valid can be selected.
        if wanted == k:
            bound = lowest
    count = tl.full((), 0, tl.int32)
    offsets = tl.arange(0, BLOCKS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    for start in range(first, end, BLOCKS * BLOCK):
        reaching = load_key_blocks(row_ptr, start, end, BLOCKS, BLOCK) >= bound  # [BLOCKS, BLOCK]
        each = tl.sum(reaching.to(tl.int32), axis=1)
        before = tl.cumsum(each) - each + count
        place = tl.cumsum(reaching.to(tl.int32), axis=1) + before[:, None] - 1
        tl.store(found_ptr + place, start + offsets, mask=reaching & (place < BLOCK))
        count += tl.sum(each)
    tl.store(count_ptr + row, count)


@triton.jit(
    do_not_specialize=["width", "row_stride", "k", "out_stride"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "found_ptr", "count_ptr", "out_ptr"],
)
def select_block_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    found_ptr,
    count_ptr,
    out_ptr,
    width,
    row_stride,
    k,
    out_stride,
    HAS_STARTS: tl.constexpr,
    THINNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Select from a row of at most BLOCK elements, or from the at most BLOCK positions that `thin_kernel` left."""
    row = tl.program_id(0).to(tl.int64)
    origin, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    index = tl.arange(0, BLOCK)
    if THINNED:
        count = tl.load(count_ptr + row)
        positions = tl.load(found_ptr + row * BLOCK + index, mask=index < count, other=0)
    else:
        count = end - first
        positions = first + index
    if count <= BLOCK:
        bits = tl.load(logits_ptr + row * row_stride + positions, mask=index < count, other=float("-inf"))
        keys = ordered_keys(bits.to(tl.int32, bitcast=True))
        threshold, quota, wanted = block_threshold(keys, k)
        equal = (keys == threshold) & (keys != 0)
        selected = (keys > threshold) | (equal & (tl.cumsum(equal.to(tl.int32)) <= quota))
        place = tl.cumsum(selected.to(tl.int32)) - 1
        out_ptr += row * out_stride
        tl.store(out_ptr + place, positions - origin, mask=selected)
        fill_rest(out_ptr, wanted, k, BLOCK)


@triton.jit(
    do_not_specialize=["width", "row_stride", "k", "out_stride"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "count_ptr", "out_ptr"],
)
def select_row_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    count_ptr,
    out_ptr,
    width,
    row_stride,
    k,
    out_stride,
    HAS_STARTS: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Select from a row that `thin_kernel` could not bring down to LIMIT positions: every pass reads the whole row."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(count_ptr + row) > LIMIT:
        origin, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
        row_ptr = logits_ptr + row * row_stride
        out_ptr += row * out_stride
        counts = count_digits(row_ptr, first, end, 0, 24, BLOCK)
        wanted = tl.minimum(tl.sum(counts), k)
        digit, above = pick_digit(counts, wanted)
        prefix = digit.to(tl.uint32)
        left = wanted - above
        for SHIFT in tl.static_range(16, -1, -8):
            counts = count_digits(row_ptr, first, end, prefix, SHIFT, BLOCK)
            digit, above = pick_digit(counts, left)
            prefix = (prefix << 8) | digit.to(tl.uint32)
            left -= above
        none = tl.full((), 0, tl.int32)
        written = emit_positions(out_ptr, row_ptr, first, end, origin, prefix, left, none, none, BLOCK)
        fill_rest(out_ptr, written, k, BLOCK)


@triton.jit
def part_bounds(first, end, part, parts, BLOCK: tl.constexpr):
    """The share of [first, end) that belongs to one part, in whole steps."""
    steps = tl.cdiv(tl.cdiv(end - first, BLOCK), parts)
    begin = tl.minimum(first + part * steps * BLOCK, end)
    return begin, tl.minimum(begin + steps * BLOCK, end)


@triton.jit
def replay_digits(totals_ptr, k, PASSES: tl.constexpr):
    """What the first PASSES passes found: prefix, keys still wanted with that prefix, and keys wanted in all."""
    digits = tl.arange(0, 256)
    counts = tl.load(totals_ptr + digits)
    wanted = tl.minimum(tl.sum(counts), k)
    digit, above = pick_digit(counts, wanted)
    prefix = digit.to(tl.uint32)
    left = wanted - above
    for index in tl.static_range(1, PASSES):
        counts = tl.load(totals_ptr + index * 256 + digits)
        digit, above = pick_digit(counts, left)
        prefix = (prefix << 8) | digit.to(tl.uint32)
        left -= above
    return prefix, left, wanted


@triton.jit(
    do_not_specialize=["width", "row_stride", "k", "parts"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr"],
)
def count_part_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    totals_ptr,
    width,
    row_stride,
    k,
    parts,
    HAS_STARTS: tl.constexpr,
    PASS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One pass over one part of a row: its digits join the row's totals [4, 256] (zero before the first pass)."""
    row = tl.program_id(0).to(tl.int64)
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    begin, stop = part_bounds(first, end, tl.program_id(1), parts, BLOCK)
    if begin < stop:
        totals_ptr += row * 1024
        prefix = tl.full((), 0, tl.uint32)
        if PASS > 0:
            prefix, _, _ = replay_digits(totals_ptr, k, PASS)
        counts = count_digits(logits_ptr + row * row_stride, begin, stop, prefix, 24 - 8 * PASS, BLOCK)
        tl.atomic_add(totals_ptr + PASS * 256 + tl.arange(0, 256), counts, mask=counts > 0, sem="relaxed")


@triton.jit(
    do_not_specialize=["width", "row_stride", "k", "parts"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr"],
)
def tally_part_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    totals_ptr,
    tally_ptr,
    width,
    row_stride,
    k,
    parts,
    HAS_STARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How many keys of one part lie above the threshold, and how many on it: tally [M, parts, 2]."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    _, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    begin, stop = part_bounds(first, end, part, parts, BLOCK)
    threshold, _, _ = replay_digits(totals_ptr + row * 1024, k, 4)
    larger = 0
    equal = 0
    for start in range(begin, stop, BLOCK):
        keys = load_keys(logits_ptr + row * row_stride, start, stop, BLOCK)
        larger += tl.sum((keys > threshold).to(tl.int32))
        equal += tl.sum(((keys == threshold) & (keys != 0)).to(tl.int32))
    tally_ptr += (row * parts + part) * 2
    tl.store(tally_ptr, larger)
    tl.store(tally_ptr + 1, equal)


@triton.jit(
    do_not_specialize=["width", "row_stride", "k", "out_stride", "parts"],
    do_not_specialize_on_alignment=["logits_ptr", "starts_ptr", "ends_ptr", "out_ptr"],
)
def emit_part_kernel(
    logits_ptr,
    starts_ptr,
    ends_ptr,
    totals_ptr,
    tally_ptr,
    out_ptr,
    width,
    row_stride,
    k,
    out_stride,
    parts,
    HAS_STARTS: tl.constexpr,
    MAX_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the selected positions of one part behind those of the parts before it."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    origin, first, end = row_bounds(starts_ptr, ends_ptr, row, width, HAS_STARTS)
    begin, stop = part_bounds(first, end, part, parts, BLOCK)
    threshold, quota, wanted = replay_digits(totals_ptr + row * 1024, k, 4)
    others = tl.arange(0, MAX_PARTS)
    tally_ptr += row * parts * 2
    larger = tl.sum(tl.load(tally_ptr + others * 2, mask=others < part, other=0))
    taken = tl.sum(tl.load(tally_ptr + others * 2 + 1, mask=others < part, other=0))
    written = larger + tl.minimum(taken, quota)
    out_ptr += row * out_stride
    emit_positions(out_ptr, logits_ptr + row * row_stride, begin, stop, origin, threshold, quota, written, taken, BLOCK)
    if part == parts - 1:
        fill_rest(out_ptr, wanted, k, BLOCK)
