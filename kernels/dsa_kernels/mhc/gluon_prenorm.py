"""mHC's pre-norm product for mma.sync: warps share out k, so that each takes a piece of fn apart once for all rows."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from dsa_kernels.gluon_support import barrier, copy_to_shared
from dsa_kernels.mhc.kernels import leading_bits


@gluon.constexpr_function
def _second_operand(columns, warps):
    """Layout [columns, 32 warps]: what each lane of mma.sync holds of its second operand, 32 of k a warp."""
    registers = [[0, 1], [0, 8], [0, 16]] + [[8 << bit, 0] for bit in range(columns.bit_length() - 4)]
    lanes = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]]
    over_warps = [[0, 32 << bit] for bit in range(warps.bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, over_warps, [], [columns, 32 * warps])


@gluon.jit
def _as_operand(values, MMA: gl.constexpr):
    """[N, 32 W] in `_second_operand` as second operand [W, 32, N] in bf16."""
    N: gl.constexpr = values.shape[0]
    WARPS: gl.constexpr = values.shape[1] // 32
    parts = gl.permute(gl.reshape(values.to(gl.bfloat16), [N, WARPS, 32]), (1, 2, 0))
    return gl.convert_layout(parts, gl.DotOperandLayout(1, MMA, 2), assert_trivial=True)


@gluon.jit
def _sum_of_squares(x):
    """Of a first operand [W, R, 32] the sums of what one thread holds of a row: [W, R, 4]."""
    WARPS: gl.constexpr = x.shape[0]
    ROWS: gl.constexpr = x.shape[1]
    wide = x.to(gl.float32)
    by_lane = gl.permute(gl.reshape(wide * wide, [WARPS, ROWS, 2, 2, 4, 2]), (0, 1, 4, 2, 3, 5))
    return gl.sum(gl.reshape(by_lane, [WARPS, ROWS, 4, 8]), 3)


@gluon.jit
def _copy(x_tile, fn_tile, x_lines, fn_lines, x_at, fn_at, here, served, limit):
    """Start copying a step: x [W, R, 32] and fn [N, 32 W], zeros from column `limit` on and where there is no row."""
    copy_to_shared(x_tile, x_lines + x_at, mask=here & (x_at < limit))
    copy_to_shared(fn_tile, fn_lines + fn_at, mask=served & (fn_at < limit))
    async_copy.commit_group()


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
    STAGES: gl.constexpr,
):
    """`kernels.prenorm_kernel`, with the same arguments and results.

    Left to itself Triton gives each warp a share of the rows and all of fn, which each then takes apart anew, and lets
    x conflict in shared memory because the squares want it in another layout.
    """
    WARPS: gl.constexpr = gl.num_warps()
    gl.static_assert(STEP == 32 * WARPS and WARPS == 4)
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    COPY_X: gl.constexpr = gl.BlockedLayout([1, 1, 8], [4, 2, 4], [1, WARPS, 1], [2, 0, 1])
    COPY_FN: gl.constexpr = gl.BlockedLayout([1, 4], [1, 32], [WARPS, 1], [1, 0])
    # Neither ldmatrix on eight rows of 64 bytes nor four rows of 32 bytes at once meet a bank twice.
    X_TILE: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 4, [2, 1, 0])
    FN_TILE: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 4, [1, 0])
    x_tiles = gl.allocate_shared_memory(gl.bfloat16, [STAGES, WARPS, ROWS, 32], X_TILE)
    fn_tiles = gl.allocate_shared_memory(gl.float32, [STAGES, COLUMNS, STEP], FN_TILE)

    split = gl.program_id(1)
    first_row = gl.program_id(0) * ROWS
    part = gl.arange(0, WARPS, layout=gl.SliceLayout(1, gl.SliceLayout(2, COPY_X)))
    row = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(0, gl.SliceLayout(2, COPY_X)))
    near = gl.arange(0, 32, layout=gl.SliceLayout(0, gl.SliceLayout(1, COPY_X)))
    part = gl.expand_dims(gl.expand_dims(part, 1), 2)
    row = gl.expand_dims(gl.expand_dims(row, 0), 2)
    x_near = part * 32 + gl.expand_dims(gl.expand_dims(near, 0), 1)
    column = gl.expand_dims(gl.arange(0, COLUMNS, layout=gl.SliceLayout(1, COPY_FN)), 1)
    fn_near = gl.expand_dims(gl.arange(0, STEP, layout=gl.SliceLayout(0, COPY_FN)), 0)
    # In units of 8 elements, so that the compiler sees rows begin on 16 bytes and masks change only there.
    x_lines = x_ptr + row.to(gl.int64) * units * 8
    fn_lines = fn_ptr + column * units * 8
    here, served = row < tokens, column < columns
    begin = split * steps_of_split * STEP
    limit = gl.minimum((split + 1) * steps_of_split * (STEP // 8), units) * 8
    for stage in gl.static_range(STAGES):
        at = begin + stage * STEP
        _copy(
            x_tiles.index(stage), fn_tiles.index(stage), x_lines, fn_lines, at + x_near, at + fn_near, here, served,
            limit,
        )  # fmt: skip

    total = gl.full([WARPS, ROWS, COLUMNS], 0.0, gl.float32, layout=MMA)
    # Nothing is computed for this sum: it tells the layout of the squares.
    layout_of = _sum_of_squares(gl.full([WARPS, ROWS, 32], 0.0, gl.bfloat16, gl.DotOperandLayout(0, MMA, 2)))
    squares = gl.full([WARPS, ROWS, 4], 0.0, gl.float32, layout=layout_of.type.layout)
    slot = 0
    for at in range(begin, limit, STEP):
        async_copy.wait_group(STAGES - 1)
        barrier()
        x = x_tiles.index(slot).load(gl.DotOperandLayout(0, MMA, 2))
        fn = fn_tiles.index(slot).load(_second_operand(COLUMNS, WARPS))
        # Every warp has this step in registers: the slot is free, and as many steps are under way as there are slots.
        barrier()
        after = at + STAGES * STEP
        _copy(
            x_tiles.index(slot), fn_tiles.index(slot), x_lines, fn_lines, after + x_near, after + fn_near, here, served,
            limit,
        )  # fmt: skip
        slot = (slot + 1) % STAGES
        high = leading_bits(fn)
        total = mma_v2(x, _as_operand(fn - high, MMA), total)
        total = mma_v2(x, _as_operand(high, MMA), total)
        squares += _sum_of_squares(x)
    async_copy.wait_group(0)

    result = gl.sum(total, 0)
    out_row = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, result.type.layout))
    out_row = gl.expand_dims(out_row, 1)
    out_column = gl.expand_dims(gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, result.type.layout)), 0)
    line = split.to(gl.int64) * tokens
    inside = (out_row < tokens) & (out_column < columns)
    gl.store(out_ptr + (line + out_row) * columns + out_column, result, mask=inside)
    sums = gl.sum(gl.sum(squares, 2), 0)
    sum_row = first_row + gl.arange(0, ROWS, layout=sums.type.layout)
    gl.store(sqrsum_ptr + line + sum_row, sums, mask=sum_row < tokens)
