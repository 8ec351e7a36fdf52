"""The attention kernel for up to 16 heads: keys in registers as mma.sync reads them, columns shared out over warps."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from dsa_kernels.gluon_support import barrier
from dsa_kernels.sparse_mla.gluon_fp8_rows import decode_fp8, gather_fp8_rows, stage_fp8_rows, view_staged
from dsa_kernels.sparse_mla.gluon_rows import (
    gather_rows,
    load_first_rows,
    load_rows,
    part_of_selection,
    rows_of_cache,
    softmax_step,
    write_result,
)
from dsa_kernels.sparse_mla.kernels import _ANY_ALIGNMENT, _RUNTIME_INTEGERS


@gluon.constexpr_function
def _fragments(rows, width):
    """Layout [rows, width] of four warps: a quarter of the columns each, a sixteenth beside each other in a thread.

    Up to the order of the columns it is how mma.sync wants an operand whose columns are summed over: each lane then
    reads its rows from shared memory 16 bytes at a time, and finds pairs for mma.sync in its registers.
    """
    near = width // 16
    columns = [[0, 1 << bit] for bit in range(near.bit_length() - 1)]
    lanes = [[0, near], [0, 2 * near], [1, 0], [2, 0], [4, 0]]
    more_rows = [[8 << bit, 0] for bit in range(rows.bit_length() - 4)]
    warps = [[0, 4 * near], [0, 8 * near]]
    return gl.DistributedLinearLayout(columns + more_rows, lanes, warps, [], [rows, width])


@gluon.constexpr_function
def _exchange(blocks):
    """Layout [blocks, 128] in which every warp has everything, a thread what its lane has of a warp's logits."""
    columns = [[0, 1], [0, 2]]
    more_rows = [[1 << bit, 0] for bit in range(blocks.bit_length() - 1)]
    lanes = [[0, 4 << bit] for bit in range(5)]
    return gl.DistributedLinearLayout(columns + more_rows, lanes, [[0, 0], [0, 0]], [], [blocks, 128])


@gluon.constexpr_function
def _value_tile(rows):
    """Shared layout [rows, 512] of decoded values: neither storing `_fragments` nor ldmatrix meets a bank twice.

    In plain order but for 16-byte units, which the row and a column bit beyond the bank's (64, at 16) move.
    """
    columns = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [0, 80], [0, 128], [0, 256]]
    lines = [[1, 8], [2, 16], [4, 32]] + [[8 << bit, 0] for bit in range(rows.bit_length() - 4)]
    return gl.SharedLinearLayout(columns + lines)


@gluon.jit
def _queries(values, MMA: gl.constexpr):
    """[H, 4 D] in `_fragments` as first operand [4, H, D]: columns 4 warps x 4 lanes x D / 16 x 2 x 2, lanes last."""
    H: gl.constexpr = values.shape[0]
    STEPS: gl.constexpr = values.shape[1] // 64
    parts = gl.permute(gl.reshape(values, [H, 4, 4, STEPS, 2, 2]), (1, 0, 3, 4, 2, 5))
    return gl.convert_layout(gl.reshape(parts, [4, H, 16 * STEPS]), gl.DotOperandLayout(0, MMA, 2), assert_trivial=True)


@gluon.jit
def _keys(values, MMA: gl.constexpr):
    """[N, 4 D] in `_fragments` as second operand [4, D, N], columns in the order of `_queries`."""
    N: gl.constexpr = values.shape[0]
    STEPS: gl.constexpr = values.shape[1] // 64
    parts = gl.permute(gl.reshape(values, [N, 4, 4, STEPS, 2, 2]), (1, 3, 4, 2, 5, 0))
    return gl.convert_layout(gl.reshape(parts, [4, 16 * STEPS, N]), gl.DotOperandLayout(1, MMA, 2), assert_trivial=True)


@gluon.jit
def _load_queries(q_ptr, first_head, num_heads, head_stride, WIDTH: gl.constexpr, H: gl.constexpr):
    """[H, WIDTH] of q in `_fragments`, zeros beyond the last head."""
    LAYOUT: gl.constexpr = _fragments(H, WIDTH)
    heads = gl.expand_dims(first_head + gl.arange(0, H, layout=gl.SliceLayout(1, LAYOUT)), 1)
    columns = gl.expand_dims(gl.arange(0, WIDTH, layout=gl.SliceLayout(0, LAYOUT)), 0)
    return gl.load(q_ptr + heads * head_stride * 8 + columns, mask=heads < num_heads, other=0.0)


@gluon.jit(do_not_specialize=_RUNTIME_INTEGERS, do_not_specialize_on_alignment=_ANY_ALIGNMENT)
def attend_mma_h16_kernel(
    q_ptr,
    latent_ptr,
    scale_ptr,  # noqa: ARG001 (the arguments of kernels.attend_kernel)
    rope_ptr,
    indices_ptr,
    length_ptr,
    sink_ptr,
    out_ptr,
    max_logits_ptr,
    lse_ptr,
    partial_ptr,
    partial_max_ptr,
    partial_sum_ptr,
    scale_log2,
    num_heads,
    num_head_blocks,
    num_rows,
    topk,
    num_splits,
    has_length,
    has_sink,
    q_token_stride,
    q_head_stride,
    page_stride,
    row_stride,
    indices_token_stride,
    out_token_stride,
    out_head_stride,
    extra_ptr,
    extra_indices_ptr,
    extra_length_ptr,
    extra_num_rows,
    extra_topk,
    has_extra_length,
    extra_page_stride,
    extra_row_stride,
    extra_indices_token_stride,
    LATENT: gl.constexpr,
    ROPE: gl.constexpr,
    PAGE_SIZE: gl.constexpr,
    EXTRA_PAGE_SIZE: gl.constexpr,
    BLOCK_H: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    FP8: gl.constexpr,
    CONVERT: gl.constexpr,
):
    """`kernels.attend_kernel`, with the same arguments and results; CONVERT is for fp8_ds_mla rows.

    Four warps share each row by a quarter of its columns, which for fp8 rows is a group of codes with one scale. As
    they come from shared memory the columns are an operand of the logits (which the warps then add up through shared
    memory), permuted alike in q, whose operands stay in registers. For the second product ldmatrix transposes the tile
    as it lies in shared memory. Codes are gathered as they are, decoded once in registers, and stored for that.
    """
    gl.static_assert(gl.num_warps() == 4 and LATENT == 512 and BLOCK_H == 16 and BLOCK_N <= 32)
    gl.static_assert(ROPE == 64 or (ROPE == 0 and not FP8))
    WARPS: gl.constexpr = gl.num_warps()
    BLOCKS: gl.constexpr = BLOCK_N // 8
    dtype: gl.constexpr = q_ptr.dtype.element_ty
    COPY: gl.constexpr = gl.BlockedLayout([1, 4 if FP8 else 8], [4, 8], [WARPS, 1], [1, 0])
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    LOGITS: gl.constexpr = gl.SliceLayout(0, MMA)
    ACC: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [1, WARPS], [16, 8])
    EXCHANGE: gl.constexpr = _exchange(BLOCKS)
    EXTRA: gl.constexpr = EXTRA_PAGE_SIZE > 0
    gl.static_assert(not EXTRA or (ROPE == 0 and not FP8 and PAGE_SIZE > 0))
    program, head_block, split, token, begin, end, length, boundary = part_of_selection(
        length_ptr, topk, num_head_blocks, num_splits, has_length,
        extra_length_ptr, extra_topk, has_extra_length, BLOCK_N, EXTRA,
    )  # fmt: skip

    if FP8:
        codes, scales, ropes = stage_fp8_rows(STAGES, BLOCK_N)
        latents = gl.allocate_shared_memory(dtype, [1, BLOCK_N, LATENT], _value_tile(BLOCK_N))
    else:
        latents = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, LATENT], _value_tile(BLOCK_N))
        ropes = latents
        if ROPE > 0:
            ropes = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, ROPE], gl.SwizzledSharedLayout(8, 1, 8, [1, 0]))
    parts = gl.allocate_shared_memory(gl.float32, [4 * BLOCKS, 128], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))

    indices_ptr += token * indices_token_stride
    if EXTRA:
        extra_indices_ptr += token * extra_indices_token_stride
    selection = (indices_ptr, end, extra_indices_ptr, length, boundary)
    extra = (extra_ptr, extra_num_rows, extra_page_stride, extra_row_stride, boundary)
    lanes = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, COPY))
    logit_lanes = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, LOGITS))
    # Indices are loaded one step ahead of the rows, and rows AHEAD steps ahead of the products.
    AHEAD: gl.constexpr = STAGES if FP8 else STAGES - 1
    rows = load_first_rows(selection, begin, lanes, EXTRA)
    for stage in gl.static_range(AHEAD):
        if FP8:
            gather_fp8_rows(
                latent_ptr, rows, num_rows, page_stride, row_stride,
                codes.index(stage), scales.index(stage), ropes.index(stage), PAGE_SIZE, COPY,
            )  # fmt: skip
        else:
            gather_rows(
                latent_ptr, rope_ptr, rows, num_rows, page_stride, row_stride, extra, begin + stage * BLOCK_N,
                latents.index(stage), ropes.index(stage), LATENT, ROPE, PAGE_SIZE, EXTRA_PAGE_SIZE, COPY,
            )  # fmt: skip
        rows = load_rows(selection, begin + (stage + 1) * BLOCK_N, lanes, EXTRA)

    q_ptr += token * q_token_stride * 8
    first_head = head_block * BLOCK_H
    q_latent = _queries(_load_queries(q_ptr, first_head, num_heads, q_head_stride, LATENT, BLOCK_H), MMA)
    if ROPE > 0:
        q_rope = _queries(_load_queries(q_ptr + LATENT, first_head, num_heads, q_head_stride, ROPE, BLOCK_H), MMA)

    row_max = gl.full([BLOCK_H], float("-inf"), gl.float32, layout=gl.SliceLayout(1, LOGITS))
    row_sum = gl.full([BLOCK_H], 0.0, gl.float32, layout=gl.SliceLayout(1, LOGITS))
    acc = gl.full([BLOCK_H, LATENT], 0.0, gl.float32, layout=ACC)
    slot = 0
    for start in range(begin, end, BLOCK_N):
        # After the barrier every warp has these rows, and none still reads values or parts of the step before.
        async_copy.wait_group(AHEAD - 1)
        barrier()
        logits = gl.full([4, BLOCK_H, BLOCK_N], 0.0, gl.float32, layout=MMA)
        if FP8:
            values = latents.index(0)
            code_bytes, scale_values, rope_tile = view_staged(codes.index(slot), scales.index(slot), ropes.index(slot))
            words = gl.reshape(code_bytes.load(_fragments(BLOCK_N, LATENT)), [BLOCK_N, 4, LATENT // 4])
            group_scales = scale_values.load(gl.SliceLayout(2, words.type.layout))
            latent = decode_fp8(words, group_scales, values, CONVERT)
            values.store(latent)
            rope = rope_tile.load(_fragments(BLOCK_N, ROPE))
            if dtype != gl.bfloat16:
                rope = rope.to(gl.float32).to(dtype)
            logits = mma_v2(q_rope, _keys(rope, MMA), logits)
        else:
            free = (slot + AHEAD) % STAGES
            gather_rows(
                latent_ptr, rope_ptr, rows, num_rows, page_stride, row_stride, extra, start + AHEAD * BLOCK_N,
                latents.index(free), ropes.index(free), LATENT, ROPE, PAGE_SIZE, EXTRA_PAGE_SIZE, COPY,
            )  # fmt: skip
            values = latents.index(slot)
            latent = values.load(_fragments(BLOCK_N, LATENT))
            if ROPE > 0:
                logits = mma_v2(q_rope, _keys(ropes.index(slot).load(_fragments(BLOCK_N, ROPE)), MMA), logits)
        logits = mma_v2(q_latent, _keys(latent, MMA), logits)
        # In the order in which threads hold them: a thread reads what the same lane of each warp has written.
        by_lane = gl.permute(gl.reshape(logits, [4, 2, 8, BLOCKS, 4, 2]), (0, 3, 2, 4, 1, 5))
        parts.store(gl.reshape(by_lane, [4 * BLOCKS, 128]))
        # After this one every warp has written its share, and what is decoded has been read.
        barrier()
        if FP8:
            gather_fp8_rows(
                latent_ptr, rows, num_rows, page_stride, row_stride,
                codes.index(slot), scales.index(slot), ropes.index(slot), PAGE_SIZE, COPY,
            )  # fmt: skip
        rows = load_rows(selection, start + (AHEAD + 1) * BLOCK_N, lanes, EXTRA)
        slot = (slot + 1) % STAGES
        met = load_rows(selection, start, logit_lanes, EXTRA)
        cache_rows = rows_of_cache(start, num_rows, extra_num_rows, boundary, EXTRA)
        valid = met.to(gl.uint32, bitcast=True) < cache_rows.to(gl.uint32, bitcast=True)

        by_lane = parts.slice(0, BLOCKS, dim=0).load(EXCHANGE)
        for group in gl.static_range(1, 4):
            by_lane += parts.slice(group * BLOCKS, BLOCKS, dim=0).load(EXCHANGE)
        logits = gl.permute(gl.reshape(by_lane, [BLOCKS, 8, 4, 2, 2]), (3, 1, 0, 2, 4))
        logits = gl.reshape(logits, [BLOCK_H, BLOCK_N])
        logits = gl.convert_layout(logits, LOGITS, assert_trivial=True)
        logits = gl.where(gl.expand_dims(valid, 0), logits * scale_log2, float("-inf"))
        weights, decay, row_max, row_sum = softmax_step(logits, row_max, row_sum)
        decay = gl.expand_dims(gl.convert_layout(decay, gl.SliceLayout(1, ACC), assert_trivial=True), 1)
        weights = gl.convert_layout(weights.to(dtype), gl.DotOperandLayout(0, ACC, 2), assert_trivial=True)
        acc = mma_v2(weights, values.load(gl.DotOperandLayout(1, ACC, 2)), acc * decay)
    async_copy.wait_group(0)
    barrier()
    # Derived anew, so that nothing of it stays in registers across the loop.
    first_head = (program + gl.num_programs(0)) % num_head_blocks * BLOCK_H
    write_result(
        acc, row_max, row_sum, sink_ptr, out_ptr, max_logits_ptr, lse_ptr, partial_ptr, partial_max_ptr,
        partial_sum_ptr, first_head, token, split, (begin >= end).to(gl.int32), num_heads, num_splits, has_sink,
        out_token_stride, out_head_stride,
    )  # fmt: skip
