"""The ragged logits kernel for mma.sync: keys stay in registers, and a warp adds up all heads of its keys."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from dsa_kernels.gluon_support import barrier, copy_to_shared


@gluon.jit
def _copy_queries(tile, lines, step, stop, PADDED: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Start copying the queries of the rows from `step` on, none from `stop` on. `lines`: pointers [COLUMNS, 128]."""
    there = gl.full(lines.shape, 0, gl.int32, lines.type.layout) + step < stop
    copy_to_shared(tile, lines + step.to(gl.int64) * (PADDED * HEAD_DIM), mask=there)
    async_copy.commit_group()


@gluon.jit(
    do_not_specialize=["num_rows", "num_keys", "out_stride", "width"],
    do_not_specialize_on_alignment=["k_scale_ptr", "starts_ptr", "ends_ptr"],
)
def ragged_mma_kernel(
    wide_ptr,
    wide_k_ptr,
    k_scale_ptr,
    weights_ptr,
    starts_ptr,
    ends_ptr,
    out_ptr,
    num_rows,
    num_keys,
    out_stride,
    width,
    PADDED: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    ROWS: gl.constexpr,
    ROW_BLOCK: gl.constexpr,
    BLOCK_N: gl.constexpr,
    COMPRESSED: gl.constexpr,
    STAGES: gl.constexpr,
):
    """`logits_kernels.ragged_kernel`, with the same arguments and results.

    Left to itself Triton shares out the columns of a dot over warps, eight at a time: then the sum over heads crosses
    warps, and so shared memory.
    """
    COLUMNS: gl.constexpr = ROWS * PADDED
    WARPS: gl.constexpr = gl.num_warps()
    DEPTH: gl.constexpr = 32
    ACC: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1], [16, 8])
    KEYS: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)
    QUERIES: gl.constexpr = gl.DotOperandLayout(1, ACC, 2)
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [WARPS, 1], [1, 0])
    TILE: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    LOCAL: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    first_key = gl.program_id(0) * BLOCK_N
    first_row = gl.program_id(1) * ROW_BLOCK
    local = gl.arange(0, ROW_BLOCK, layout=LOCAL)
    present = first_row + local < num_rows
    starts = gl.maximum(gl.load(starts_ptr + first_row + local, mask=present, other=0), 0)
    ends = gl.minimum(gl.load(ends_ptr + first_row + local, mask=present, other=0), num_keys)
    meets = (starts < ends) & (starts < first_key + BLOCK_N) & (ends > first_key)
    begin = gl.min(gl.where(meets, local, ROW_BLOCK), 0) // ROWS * ROWS
    stop = gl.max(gl.where(meets, local + 1, 0), 0)
    if begin < stop:
        dims = gl.expand_dims(gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, COPY)), 0)
        keys = first_key + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, COPY))
        key_rows = wide_k_ptr + gl.expand_dims(keys.to(gl.int64) * HEAD_DIM, 1)
        key_tile = gl.allocate_shared_memory(gl.float16, [BLOCK_N, HEAD_DIM], TILE)
        copy_to_shared(key_tile, key_rows + dims, mask=gl.expand_dims(keys < num_keys, 1))
        async_copy.commit_group()
        async_copy.wait_group(0)
        barrier()
        operands = ()  # type: tuple
        for first in gl.static_range(0, HEAD_DIM, DEPTH):
            operands += (key_tile.slice(first, DEPTH, dim=1).load(KEYS),)
        # The queries take the place of the keys.
        barrier()
        tiles = gl.allocate_shared_memory(gl.float16, [STAGES, COLUMNS, HEAD_DIM], TILE)
        line = gl.arange(0, COLUMNS, layout=gl.SliceLayout(1, COPY))
        lines = wide_ptr + first_row.to(gl.int64) * (PADDED * HEAD_DIM) + gl.expand_dims(line * HEAD_DIM, 1) + dims
        for stage in gl.static_range(STAGES - 1):
            _copy_queries(tiles.index(stage), lines, begin + stage * ROWS, stop, PADDED, HEAD_DIM)

        # Nothing is computed for this sum: it tells the layout of the results.
        shape_of = gl.sum(gl.reshape(gl.full([BLOCK_N, COLUMNS], 0.0, gl.float32, ACC), [BLOCK_N, ROWS, PADDED]), 2)
        RESULT: gl.constexpr = shape_of.type.layout
        result_keys = first_key + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, RESULT))
        scale = gl.load(k_scale_ptr + result_keys, mask=result_keys < num_keys, other=0.0) * 65536.0
        scale = gl.expand_dims(scale, 1)
        result_keys = gl.expand_dims(result_keys, 1)
        result_rows = gl.arange(0, ROWS, layout=gl.SliceLayout(0, RESULT))
        head = gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, ACC))
        weights_ptr += first_row.to(gl.int64) * PADDED
        weighted_lines = (num_rows - first_row) * PADDED
        slot = 0
        for step in range(begin, stop, ROWS):
            at = step * PADDED + head
            weights = gl.load(weights_ptr + at, mask=at < weighted_lines, other=0.0)
            out_row = first_row + step + result_rows
            start = gl.maximum(gl.load(starts_ptr + out_row, mask=out_row < num_rows, other=0), 0)
            end = gl.minimum(gl.load(ends_ptr + out_row, mask=out_row < num_rows, other=0), num_keys)
            out_line = out_ptr + out_row.to(gl.int64) * out_stride
            if COMPRESSED:
                out_line -= start
                end = start + gl.minimum(end - start, width)
            # After the barrier every warp has these queries, and none still reads those of the step before.
            async_copy.wait_group(STAGES - 2)
            barrier()
            ahead = (slot + STAGES - 1) % STAGES
            _copy_queries(tiles.index(ahead), lines, step + (STAGES - 1) * ROWS, stop, PADDED, HEAD_DIM)
            tile = tiles.index(slot)
            slot = (slot + 1) % STAGES
            scores = gl.full([BLOCK_N, COLUMNS], 0.0, gl.float32, layout=ACC)
            for part in gl.static_range(HEAD_DIM // DEPTH):
                queries = tile.slice(part * DEPTH, DEPTH, dim=1).permute((1, 0)).load(QUERIES)
                scores = mma_v2(operands[part], queries, scores)
            weighted = gl.maximum(scores, 0.0) * gl.expand_dims(weights, 0)
            logits = gl.sum(gl.reshape(weighted, [BLOCK_N, ROWS, PADDED]), 2) * scale
            inside = (result_keys >= gl.expand_dims(start, 0)) & (result_keys < gl.expand_dims(end, 0))
            gl.store(gl.expand_dims(out_line, 0) + result_keys, logits, mask=inside)
        async_copy.wait_group(0)
