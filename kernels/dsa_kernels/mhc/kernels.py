"""Triton kernels of mHC's pre-norm product: a tile of tokens against all columns, over a share of k."""

import triton
import triton.language as tl


@triton.jit
def leading_bits(values):
    """The 8 leading significant bits of fp32 values, as fp32: exact in bf16, and what is taken off is exact in fp32."""
    return (values.to(tl.int32, bitcast=True) & -0x10000).to(tl.float32, bitcast=True)


@triton.jit(
    do_not_specialize=["tokens", "units", "columns", "steps_of_split"],
    do_not_specialize_on_alignment=["out_ptr", "sqrsum_ptr"],
)
def prenorm_kernel(
    x_ptr,
    fn_ptr,
    out_ptr,
    sqrsum_ptr,
    tokens,
    units,
    columns,
    steps_of_split,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One tile of ROWS tokens and one split of k: the tile's products with fn, and its sums of squares.

    x is an operand of the tensor cores as it comes. fn is taken apart into two bf16 numbers, which leaves out at most
    2^-16 of it. `units` is k / 8, so that the compiler sees rows begin on 16 bytes.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    offset = tl.arange(0, STEP)
    k = units * 8
    # Rows and columns beyond the last are the last once more, and not stored.
    x_rows = x_ptr + tl.minimum(row, tokens - 1).to(tl.int64)[:, None] * k + offset[None, :]  # [ROWS, STEP]
    fn_rows = fn_ptr + tl.minimum(column, columns - 1)[:, None] * k + offset[None, :]  # [COLUMNS, STEP]
    begin = split * steps_of_split * STEP
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS, STEP), tl.float32)
    for at in tl.range(begin, min(begin + steps_of_split * STEP, k), STEP, num_stages=STAGES):
        inside = (at + offset < k)[None, :]
        x = tl.load(x_rows + at, mask=inside, other=0.0)
        fn = tl.load(fn_rows + at, mask=inside, other=0.0)
        high = leading_bits(fn)
        total = tl.dot(x, tl.trans((fn - high).to(tl.bfloat16)), total)
        total = tl.dot(x, tl.trans(high.to(tl.bfloat16)), total)
        wide = x.to(tl.float32)
        squares += wide * wide
    line = split.to(tl.int64) * tokens + row
    here = row < tokens
    inside = here[:, None] & (column < columns)[None, :]
    tl.store(out_ptr + line[:, None] * columns + column[None, :], total, mask=inside)
    tl.store(sqrsum_ptr + line, tl.sum(squares, axis=1), mask=here)


@triton.jit(
    do_not_specialize=["tokens", "columns", "parts"],
    do_not_specialize_on_alignment=["part_ptr", "part_sum_ptr", "out_ptr", "sqrsum_ptr"],
)
def join_kernel(
    part_ptr,
    part_sum_ptr,
    out_ptr,
    sqrsum_ptr,
    tokens,
    columns,
    parts,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add up the `parts` of one split, in their order, for ROWS tokens."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    here = row < tokens
    inside = here[:, None] & (column < columns)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for part in range(parts):
        line = (split * parts + part) * tokens + row
        total += tl.load(part_ptr + line[:, None] * columns + column[None, :], mask=inside, other=0.0)
        squares += tl.load(part_sum_ptr + line, mask=here, other=0.0)
    line = split * tokens + row
    tl.store(out_ptr + line[:, None] * columns + column[None, :], total, mask=inside)
    tl.store(sqrsum_ptr + line, squares, mask=here)
