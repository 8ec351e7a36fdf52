"""The attention kernel for more than 16 heads on Hopper: wgmma, with rows gathered under the products."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

from dsa_kernels.gluon_support import barrier, copy_to_shared
from dsa_kernels.sparse_mla.gluon_fp8_rows import decode_fp8_rows, gather_fp8_rows, stage_fp8_rows
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


@gluon.jit(do_not_specialize=_RUNTIME_INTEGERS, do_not_specialize_on_alignment=_ANY_ALIGNMENT)
def attend_wgmma_h64_kernel(
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
    """`kernels.attend_kernel`, with the same arguments and results; STAGES and CONVERT are for fp8_ds_mla rows.

    Two warpgroups share the output by columns. Each computes all logits: the weights then stand where the second
    product wants them, without an exchange through shared memory.
    """
    WARPS: gl.constexpr = gl.num_warps()
    dtype: gl.constexpr = q_ptr.dtype.element_ty
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [WARPS, 1], [1, 0])
    ROW_COPY: gl.constexpr = gl.BlockedLayout([1, 4 if FP8 else 8], [4, 8], [WARPS, 1], [1, 0])
    LOGITS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK_N, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, WARPS // 4], [16, 256, 16])
    ROWS: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    EXTRA: gl.constexpr = EXTRA_PAGE_SIZE > 0
    gl.static_assert(not EXTRA or (ROPE == 0 and not FP8 and PAGE_SIZE > 0))
    program, head_block, split, token, begin, end, length, boundary = part_of_selection(
        length_ptr, topk, num_head_blocks, num_splits, has_length,
        extra_length_ptr, extra_topk, has_extra_length, BLOCK_N, EXTRA,
    )  # fmt: skip

    q_latent = gl.allocate_shared_memory(dtype, [BLOCK_H, LATENT], ROWS)
    q_rope = q_latent
    if ROPE > 0:
        q_rope = gl.allocate_shared_memory(dtype, [BLOCK_H, ROPE], ROWS)
    latents = gl.allocate_shared_memory(dtype, [2, BLOCK_N, LATENT], ROWS)
    ropes = latents
    if ROPE > 0:
        ropes = gl.allocate_shared_memory(dtype, [2, BLOCK_N, ROPE], ROWS)
    if FP8:
        codes, scales, rope_words = stage_fp8_rows(STAGES, BLOCK_N)
    heads = head_block * BLOCK_H + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, COPY))
    is_head = gl.expand_dims(heads < num_heads, 1)
    q_rows = q_ptr + token * q_token_stride * 8 + gl.expand_dims(heads * q_head_stride * 8, 1)
    columns = gl.arange(0, LATENT, layout=gl.SliceLayout(0, COPY))
    copy_to_shared(q_latent, q_rows + gl.expand_dims(columns, 0), mask=is_head)
    if ROPE > 0:
        rope_columns = gl.arange(0, ROPE, layout=gl.SliceLayout(0, COPY))
        copy_to_shared(q_rope, q_rows + LATENT + gl.expand_dims(rope_columns, 0), mask=is_head)

    indices_ptr += token * indices_token_stride
    if EXTRA:
        extra_indices_ptr += token * extra_indices_token_stride
    selection = (indices_ptr, end, extra_indices_ptr, length, boundary)
    extra = (extra_ptr, extra_num_rows, extra_page_stride, extra_row_stride, boundary)
    lanes = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, ROW_COPY))
    logit_lanes = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, LOGITS))
    # Indices are loaded one step ahead of the rows, and rows AHEAD steps ahead of the products.
    AHEAD: gl.constexpr = STAGES if FP8 else 1
    rows = load_first_rows(selection, begin, lanes, EXTRA)
    for stage in gl.static_range(AHEAD):
        if FP8:
            gather_fp8_rows(
                latent_ptr, rows, num_rows, page_stride, row_stride,
                codes.index(stage), scales.index(stage), rope_words.index(stage), PAGE_SIZE, ROW_COPY,
            )  # fmt: skip
        else:
            gather_rows(
                latent_ptr, rope_ptr, rows, num_rows, page_stride, row_stride, extra, begin,
                latents.index(0), ropes.index(0), LATENT, ROPE, PAGE_SIZE, EXTRA_PAGE_SIZE, ROW_COPY,
            )  # fmt: skip
        rows = load_rows(selection, begin + (stage + 1) * BLOCK_N, lanes, EXTRA)

    row_max = gl.full([BLOCK_H], float("-inf"), gl.float32, layout=gl.SliceLayout(1, LOGITS))
    row_sum = gl.full([BLOCK_H], 0.0, gl.float32, layout=gl.SliceLayout(1, LOGITS))
    acc = gl.full([BLOCK_H, LATENT], 0.0, gl.float32, layout=ACC)
    no_logits = gl.full([BLOCK_H, BLOCK_N], 0.0, gl.float32, layout=LOGITS)
    pending = warpgroup_mma_init(acc)
    tile = 0
    slot = 0
    for start in range(begin, end, BLOCK_N):
        latent = latents.index(tile)
        rope = ropes.index(tile)
        # After the barrier every warp has these rows.
        if not FP8:
            acc = warpgroup_mma_wait(0, deps=[pending])
        async_copy.wait_group(AHEAD - 1)
        if FP8:
            barrier()
            decode_fp8_rows(codes.index(slot), scales.index(slot), rope_words.index(slot), latent, rope, CONVERT)
            # The other tile is still being multiplied while this one is decoded.
            acc = warpgroup_mma_wait(0, deps=[pending])
        fence_async_shared()
        # After this one the tile can be read by products, and what the step before has read can be written.
        barrier()
        unfinished = warpgroup_mma(q_latent, latent.permute((1, 0)), no_logits, use_acc=False, is_async=True)
        if ROPE > 0:
            unfinished = warpgroup_mma(q_rope, rope.permute((1, 0)), unfinished, is_async=True)
        tile = (tile + 1) % 2
        if FP8:
            gather_fp8_rows(
                latent_ptr, rows, num_rows, page_stride, row_stride,
                codes.index(slot), scales.index(slot), rope_words.index(slot), PAGE_SIZE, ROW_COPY,
            )  # fmt: skip
            slot = (slot + 1) % STAGES
        else:
            gather_rows(
                latent_ptr, rope_ptr, rows, num_rows, page_stride, row_stride, extra, start + AHEAD * BLOCK_N,
                latents.index(tile), ropes.index(tile), LATENT, ROPE, PAGE_SIZE, EXTRA_PAGE_SIZE, ROW_COPY,
            )  # fmt: skip
        rows = load_rows(selection, start + (AHEAD + 1) * BLOCK_N, lanes, EXTRA)
        met = load_rows(selection, start, logit_lanes, EXTRA)
        cache_rows = rows_of_cache(start, num_rows, extra_num_rows, boundary, EXTRA)
        valid = (met >= 0) & (met < cache_rows)

        logits = warpgroup_mma_wait(0, deps=[unfinished])  # [BLOCK_H, BLOCK_N]
        logits = gl.where(gl.expand_dims(valid, 0), logits * scale_log2, float("-inf"))
        weights, decay, row_max, row_sum = softmax_step(logits, row_max, row_sum)
        acc = acc * gl.expand_dims(gl.convert_layout(decay, gl.SliceLayout(1, ACC)), 1)
        pending = warpgroup_mma(
            gl.convert_layout(weights.to(dtype), gl.DotOperandLayout(0, ACC, 2)), latent, acc, is_async=True
        )
    acc = warpgroup_mma_wait(0, deps=[pending])
    async_copy.wait_group(0)
    barrier()
    # Derived anew, so that nothing of it stays in registers across the loop.
    first_head = (program + gl.num_programs(0)) % num_head_blocks * BLOCK_H
    write_result(
        acc, row_max, row_sum, sink_ptr, out_ptr, max_logits_ptr, lse_ptr, partial_ptr, partial_max_ptr,
        partial_sum_ptr, first_head, token, split, (begin >= end).to(gl.int32), num_heads, num_splits, has_sink,
        out_token_stride, out_head_stride,
    )  # fmt: skip
