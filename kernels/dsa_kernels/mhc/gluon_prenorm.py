"""mHC's pre-norm product for mma.sync: warps share out k, so that each takes a piece of fn apart once for all rows."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from dsa_kernels.mhc.kernels import leading_bits


@gluon.constexpr_function
def _fragments(rows, warps):
    """Layout [rows, 32 warps]: 32 columns a warp, 8 beside each other a thread.

    Up to the order of the columns, which are summed over, it is how mma.sync wants either operand: what is loaded from
    memory 16 bytes at a time is an operand as it lies in registers.
    """
    columns = [[0, 1], [0, 2], [0, 4]]
    more_rows = [[8 << bit, 0] for bit in range(rows.bit_length() - 4)]
    lanes = [[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]]
    over_warps = [[0, 32 << bit] for bit in range(warps.bit_length() - 1)]
    return gl.DistributedLinearLayout(columns + more_rows, lanes, over_warps, [], [rows, 32 * warps])


@gluon.jit
def _load(lines, at, limit, EVEN: gl.constexpr):
    """[rows, STEP] from column `at` of `lines` on, in `_fragments`; unless EVEN zeros from column `limit` on."""
    if EVEN:
        return gl.load(lines + at)
    STEP: gl.constexpr = lines.shape[1]
    offset = gl.expand_dims(gl.arange(0, STEP, layout=gl.SliceLayout(0, lines.type.layout)), 0)
    there = gl.full(lines.shape, 0, gl.int32, lines.type.layout) + at + offset < limit
    return gl.load(lines + at, mask=there, other=0.0)


@gluon.jit
def _rows_operand(values, MMA: gl.constexpr):
    """[R, 32 W] in `_fragments` as first operand [W, R, 32]: columns W warps x 4 lanes x 2 x 2 x 2, lanes third."""
    ROWS: gl.constexpr = values.shape[0]
    WARPS: gl.constexpr = values.shape[1] // 32
    parts = gl.permute(gl.reshape(values, [ROWS, WARPS, 4, 2, 2, 2]), (1, 0, 3, 4, 2, 5))
    return gl.convert_layout(gl.reshape(parts, [WARPS, ROWS, 32]), gl.DotOperandLayout(0, MMA, 2), assert_trivial=True)


@gluon.jit
def _columns_operand(values, MMA: gl.constexpr):
    """[N, 32 W] in `_fragments` as second operand [W, 32, N] in bf16, columns in the order of `_rows_operand`."""
    N: gl.constexpr = values.shape[0]
    WARPS: gl.constexpr = values.shape[1] // 32
    parts = gl.permute(gl.reshape(values.to(gl.bfloat16), [N, WARPS, 4, 2, 2, 2]), (1, 3, 4, 2, 5, 0))
    return gl.convert_layout(gl.reshape(parts, [WARPS, 32, N]), gl.DotOperandLayout(1, MMA, 2), assert_trivial=True)


@gluon.jit(
    do_not_specialize=["tokens", "units", "columns", "steps_of_split"],
    do_not_specialize_on_alignment=["out_ptr", "sqrsum_ptr"],
)
def prenorm_mma_kernel(
    x_ptr,
    fn_ptr,
    out_ptr,
    sqrsum_ptr,
    tokens,
    units,
    columns,
    steps_of_split,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    STEP: gl.constexpr,
    EVEN: gl.constexpr,
):
    """`kernels.prenorm_kernel`, with the same arguments and results.

    Nothing passes through shared memory but the warps' sums at the end: while a step is computed the next one is under
    way to registers. Left to itself Triton gives each warp a quarter of the rows and all of fn, which each then takes
    apart anew, and lets x conflict in shared memory because the squares want it in another layout.
    """
    WARPS: gl.constexpr = gl.num_warps()
    gl.static_assert(STEP == 32 * WARPS)
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    X: gl.constexpr = _fragments(ROWS, WARPS)
    FN: gl.constexpr = _fragments(COLUMNS, WARPS)
    split = gl.program_id(1)
    # Rows beyond the last are the last once more, and not stored: nothing is masked in the loop.
    row = gl.program_id(0) * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, X))
    row = gl.expand_dims(gl.minimum(row, tokens - 1), 1)
    column = gl.expand_dims(gl.minimum(gl.arange(0, COLUMNS, layout=gl.SliceLayout(1, FN)), columns - 1), 1)
    # In units of 8 elements, so that the compiler sees rows begin on 16 bytes and masks change only there.
    x_lines = x_ptr + row.to(gl.int64) * units * 8 + gl.expand_dims(gl.arange(0, STEP, layout=gl.SliceLayout(0, X)), 0)
    fn_lines = fn_ptr + column * units * 8 + gl.expand_dims(gl.arange(0, STEP, layout=gl.SliceLayout(0, FN)), 0)
    k = units * 8
    begin = split * steps_of_split * STEP
    end = gl.minimum(begin + steps_of_split * STEP, k)

    total = gl.full([WARPS, ROWS, COLUMNS], 0.0, gl.float32, layout=MMA)
    first = gl.minimum(begin, (units - 1) // (STEP // 8) * STEP)
    x = _load(x_lines, first, k, EVEN)
    fn = _load(fn_lines, first, k, EVEN)
    # Nothing is computed for this sum: it tells the layout of the squares.
    eighths = gl.sum(gl.reshape(x.to(gl.float32), [ROWS, STEP // 8, 8]), 2)
    squares = gl.full([ROWS, STEP // 8], 0.0, gl.float32, layout=eighths.type.layout)
    for at in range(begin, end, STEP):
        # The last step's own once more where there is none after it.
        ahead = gl.where(at + STEP < end, at + STEP, at)
        x_ahead = _load(x_lines, ahead, k, EVEN)
        fn_ahead = _load(fn_lines, ahead, k, EVEN)
        high = leading_bits(fn)
        rows = _rows_operand(x, MMA)
        total = mma_v2(rows, _columns_operand(fn - high, MMA), total)
        total = mma_v2(rows, _columns_operand(high, MMA), total)
        wide = x.to(gl.float32)
        squares += gl.sum(gl.reshape(wide * wide, [ROWS, STEP // 8, 8]), 2)
        x, fn = x_ahead, fn_ahead

    result = gl.sum(total, 0)
    out_row = gl.program_id(0) * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, result.type.layout))
    out_row = gl.expand_dims(out_row, 1)
    out_column = gl.expand_dims(gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, result.type.layout)), 0)
    first_row = split.to(gl.int64) * tokens
    inside = (out_row < tokens) & (out_column < columns)
    gl.store(out_ptr + (first_row + out_row) * columns + out_column, result, mask=inside)
    sums = gl.sum(squares, 1)
    sum_row = gl.program_id(0) * ROWS + gl.arange(0, ROWS, layout=sums.type.layout)
    gl.store(sqrsum_ptr + first_row + sum_row, sums, mask=sum_row < tokens)
