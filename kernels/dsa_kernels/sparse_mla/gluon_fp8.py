"""The attention kernel for up to 16 heads over fp8_ds_mla rows: decoded in registers, straight to mma.sync operands."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from dsa_kernels.sparse_mla.gluon_rows import barrier, copy_to_shared, write_result
from dsa_kernels.sparse_mla.kernels import _ANY_ALIGNMENT, _RUNTIME_INTEGERS


def _decode_asm(to_pair: str) -> str:
    """PTX that decodes 16 codes of one scale group to pairs in q's dtype; $0-$7 out, $8-$11 codes, $12 scale."""
    lines = [
        ".reg .b32 t, bad, p;",
        ".reg .f32 s, a, b, c, d;",
        ".reg .b16 l, h;",
        ".reg .pred nan;",
        "mov.b32 bad, 0;",
    ]
    for word in range(4):
        # The sign of a byte flips only when the one below carries out of 0x7f, or out of another NaN.
        lines += [f"add.u32 t, ${8 + word}, 0x01010101;", f"lop3.b32 bad, bad, t, ${8 + word}, 0xf6;"]
    lines += [
        "and.b32 bad, bad, 0x80808080;",
        "setp.ne.u32 nan, bad, 0;",
        "mul.f32 s, $12, 0f43800000;",
        "selp.f32 s, 0f7fffffff, s, nan;",
    ]
    for word in range(4):
        for selector, even, odd in ((0xA280, "a", "c"), (0xB391, "b", "d")):
            lines += [
                f"prmt.b32 p, ${8 + word}, 0, {selector:#x};",
                "shl.b32 p, p, 7;",
                "and.b32 p, p, 0xbf80bf80;",
                "mov.b32 {l, h}, p;",
                f"cvt.f32.f16 {even}, l;",
                f"cvt.f32.f16 {odd}, h;",
                f"mul.f32 {even}, {even}, s;",
                f"mul.f32 {odd}, {odd}, s;",
            ]
        lines += [f"{to_pair} ${2 * word}, b, a;", f"{to_pair} ${2 * word + 1}, d, c;"]
    return "{" + "\n".join(lines) + "}"


_DECODE_BF16 = gl.constexpr(_decode_asm("cvt.rn.bf16x2.f32"))
_DECODE_FP16 = gl.constexpr(_decode_asm("cvt.rn.f16x2.f32"))
_DECODE_CONSTRAINTS = gl.constexpr(",".join(["=r"] * 8 + ["r"] * 4 + ["r"] * 16))


@gluon.jit
def _decode(codes, scales, like):
    ASM: gl.constexpr = _DECODE_BF16 if like.dtype == gl.bfloat16 else _DECODE_FP16
    return gl.inline_asm_elementwise(
        ASM, _DECODE_CONSTRAINTS, [codes, scales], dtype=like.dtype, is_pure=False, pack=16
    )


@gluon.jit
def _transpose_blocks(values):
    return gl.inline_asm_elementwise(
        "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", [values], dtype=values.dtype, is_pure=False, pack=2
    )


@gluon.jit
def _row_starts(rows, num_rows, page_stride, row_stride, PAGE_SIZE: gl.constexpr):
    wide = rows.to(gl.int64)
    if PAGE_SIZE > 0:  # noqa: SIM108 (decided when compiling)
        units = (wide // PAGE_SIZE) * page_stride + (wide % PAGE_SIZE) * row_stride
    else:
        units = wide * row_stride
    return gl.expand_dims(units * 4, 1), gl.expand_dims((rows >= 0) & (rows < num_rows), 1)


@gluon.jit
def _gather(
    latent_ptr, scale_ptr, rope_ptr, rows, num_rows, page_stride, row_stride, codes, scales, ropes,
    PAGE_SIZE: gl.constexpr, COPY: gl.constexpr,
):  # fmt: skip
    starts, mask = _row_starts(rows, num_rows, page_stride, row_stride, PAGE_SIZE)
    columns = gl.expand_dims(gl.arange(0, codes.shape[1], layout=gl.SliceLayout(0, COPY)), 0)
    copy_to_shared(codes, latent_ptr + starts + columns, mask=mask)
    columns = gl.expand_dims(gl.arange(0, ropes.shape[1], layout=gl.SliceLayout(0, COPY)), 0)
    copy_to_shared(ropes, rope_ptr + starts + columns, mask=mask)
    columns = gl.expand_dims(gl.arange(0, scales.shape[1], layout=gl.SliceLayout(0, COPY)), 0)
    copy_to_shared(scales, scale_ptr + starts + columns, mask=mask)
    async_copy.commit_group()


@gluon.jit(do_not_specialize=_RUNTIME_INTEGERS, do_not_specialize_on_alignment=_ANY_ALIGNMENT)
def attend_fp8_kernel(
    q_ptr,
    latent_ptr,
    scale_ptr,
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
    LATENT: gl.constexpr,
    ROPE: gl.constexpr,
    PAGE_SIZE: gl.constexpr,
    BLOCK_H: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
):
    WARPS: gl.constexpr = gl.num_warps()
    gl.static_assert(WARPS == 4 and LATENT == 512 and ROPE == 64 and BLOCK_H == 16)
    dtype: gl.constexpr = q_ptr.dtype.element_ty
    BLOCKS: gl.constexpr = BLOCK_N // 8
    COPY: gl.constexpr = gl.BlockedLayout([1, 4], [4, 8], [WARPS, 1], [1, 0])
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    LOGITS: gl.constexpr = gl.SliceLayout(0, MMA)
    ROW_BITS: gl.constexpr = [[8, 0], [16, 0], [32, 0]][: BLOCK_N.bit_length() - 4]
    CODES: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16]] + ROW_BITS,
        [[0, 32], [0, 64], [1, 0], [2, 0], [4, 0]],
        [[0, 128], [0, 256]], [], [BLOCK_N, 512],
    )
    ROPES: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 2]] + ROW_BITS, [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], [[0, 16], [0, 32]], [], [BLOCK_N, 64],
    )
    Q_LATENT: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [8, 0]],
        [[0, 32], [0, 64], [1, 0], [2, 0], [4, 0]],
        [[0, 128], [0, 256]], [], [16, 512],
    )
    Q_ROPE: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [8, 0]], [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], [[0, 16], [0, 32]], [], [16, 64],
    )
    PART_BITS: gl.constexpr = [[1, 0], [2, 0], [4, 0]][: BLOCK_N.bit_length() - 4]
    PARTIALS: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 2]] + PART_BITS + [[BLOCKS, 0], [2 * BLOCKS, 0]],
        [[0, 4], [0, 8], [0, 16], [0, 32], [0, 64]],
        [[0, 0], [0, 0]], [], [4 * BLOCKS, 128],
    )
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    program = gl.program_id(0)
    head_block = program % num_head_blocks
    split = (program // num_head_blocks) % num_splits
    token = (program // num_head_blocks // num_splits).to(gl.int64)

    length = topk
    if has_length != 0:
        length = gl.load(length_ptr + token)
    length = gl.minimum(gl.maximum(length, 0), topk)
    part = gl.cdiv(gl.cdiv(length, num_splits), BLOCK_N) * BLOCK_N
    begin = split * part
    end = gl.minimum(begin + part, length)

    codes = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_N, 128], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    ropes = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_N, 32], gl.SwizzledSharedLayout(8, 1, 4, [1, 0]))
    scales = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_N, 4], PLAIN)
    code_bytes = codes._reinterpret(gl.int8, [STAGES, BLOCK_N, 512], gl.SwizzledSharedLayout(16, 1, 8, [1, 0]))
    rope_values = ropes._reinterpret(gl.bfloat16, [STAGES, BLOCK_N, 64], gl.SwizzledSharedLayout(16, 1, 4, [1, 0]))
    scale_values = scales._reinterpret(gl.float32, [STAGES, BLOCK_N, 4], PLAIN)
    partials = gl.allocate_shared_memory(gl.float32, [4 * BLOCKS, 128], PLAIN)

    rope_ptr = rope_ptr.to(gl.pointer_type(gl.int32))
    scale_ptr = scale_ptr.to(gl.pointer_type(gl.int32))
    indices_ptr += token * indices_token_stride
    lanes = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, COPY))
    logit_lanes = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, LOGITS))
    for stage in gl.static_range(STAGES):
        at = begin + stage * BLOCK_N + lanes
        rows = gl.load(indices_ptr + at, mask=at < end, other=-1)
        _gather(
            latent_ptr, scale_ptr, rope_ptr, rows, num_rows, page_stride, row_stride, codes.index(stage),
            scales.index(stage), ropes.index(stage), PAGE_SIZE, COPY,
        )  # fmt: skip
    at = begin + STAGES * BLOCK_N + lanes
    rows = gl.load(indices_ptr + at, mask=at < end, other=-1)

    q_rows = q_ptr + token * q_token_stride * 8
    heads = head_block * BLOCK_H + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, Q_LATENT))
    columns = gl.arange(0, LATENT, layout=gl.SliceLayout(0, Q_LATENT))
    q = gl.load(
        q_rows + gl.expand_dims(heads * q_head_stride * 8, 1) + gl.expand_dims(columns, 0),
        mask=gl.expand_dims(heads < num_heads, 1),
        other=0.0,
    )
    q = gl.permute(gl.reshape(q, [16, 4, 4, 8, 2, 2]), (1, 0, 3, 4, 2, 5))
    q_latent = gl.convert_layout(gl.reshape(q, [4, 16, 128]), gl.DotOperandLayout(0, MMA, 2), assert_trivial=True)
    heads = head_block * BLOCK_H + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, Q_ROPE))
    columns = gl.arange(0, ROPE, layout=gl.SliceLayout(0, Q_ROPE))
    q = gl.load(
        q_rows + LATENT + gl.expand_dims(heads * q_head_stride * 8, 1) + gl.expand_dims(columns, 0),
        mask=gl.expand_dims(heads < num_heads, 1),
        other=0.0,
    )
    q = gl.permute(gl.reshape(q, [16, 4, 4, 2, 2]), (1, 0, 3, 2, 4))
    q_rope = gl.convert_layout(gl.reshape(q, [4, 16, 16]), gl.DotOperandLayout(0, MMA, 2), assert_trivial=True)

    row_max = gl.full([BLOCK_H], float("-inf"), gl.float32, layout=gl.SliceLayout(1, LOGITS))
    row_sum = gl.full([BLOCK_H], 0.0, gl.float32, layout=gl.SliceLayout(1, LOGITS))
    acc = gl.full([4, BLOCK_H, 128], 0.0, gl.float32, layout=MMA)
    slot = 0
    for start in range(begin, end, BLOCK_N):
        async_copy.wait_group(STAGES - 1)
        barrier()
        here = start + logit_lanes
        met = gl.load(indices_ptr + here, mask=here < end, other=-1)
        valid = (met >= 0) & (met < num_rows)

        words = gl.reshape(code_bytes.index(slot).load(CODES), [BLOCK_N, 4, 128])
        row_scales = scale_values.index(slot).load(gl.SliceLayout(2, words.type.layout))
        latent = _decode(words, gl.expand_dims(row_scales, 2), q_rope)
        k = gl.permute(gl.reshape(latent, [BLOCK_N, 4, 4, 8, 2, 2]), (1, 3, 4, 2, 5, 0))
        k = gl.convert_layout(gl.reshape(k, [4, 128, BLOCK_N]), gl.DotOperandLayout(1, MMA, 2), assert_trivial=True)
        k_rope = rope_values.index(slot).load(ROPES)
        if dtype != gl.bfloat16:
            k_rope = k_rope.to(gl.float32).to(dtype)
        k_rope = gl.permute(gl.reshape(k_rope, [BLOCK_N, 4, 4, 2, 2]), (1, 3, 2, 4, 0))
        k_rope = gl.convert_layout(
            gl.reshape(k_rope, [4, 16, BLOCK_N]), gl.DotOperandLayout(1, MMA, 2), assert_trivial=True
        )
        logits = gl.full([4, BLOCK_H, BLOCK_N], 0.0, gl.float32, layout=MMA)
        logits = mma_v2(q_rope, k_rope, logits)
        logits = mma_v2(q_latent, k, logits)
        logits = gl.permute(gl.reshape(logits, [4, 2, 8, BLOCKS, 4, 2]), (0, 3, 2, 4, 1, 5))
        partials.store(gl.reshape(logits, [4 * BLOCKS, 128]))
        # Every warp has read this slot and written its part of the logits.
        barrier()
        _gather(
            latent_ptr, scale_ptr, rope_ptr, rows, num_rows, page_stride, row_stride, codes.index(slot),
            scales.index(slot), ropes.index(slot), PAGE_SIZE, COPY,
        )  # fmt: skip
        after = start + (STAGES + 1) * BLOCK_N + lanes
        rows = gl.load(indices_ptr + after, mask=after < end, other=-1)
        logits = gl.reshape(partials.load(PARTIALS), [4, BLOCKS, 8, 4, 2, 2])
        logits = gl.permute(gl.sum(logits, 0), (3, 1, 0, 2, 4))
        logits = gl.convert_layout(gl.reshape(logits, [BLOCK_H, BLOCK_N]), LOGITS, assert_trivial=True)

        logits = gl.where(gl.expand_dims(valid, 0), logits * scale_log2, float("-inf"))
        new_max = gl.maximum(row_max, gl.max(logits, 1))
        base = gl.where(new_max == float("-inf"), 0.0, new_max)
        weights = gl.exp2(logits - gl.expand_dims(base, 1))
        decay = gl.exp2(row_max - base)
        row_sum = row_sum * decay + gl.sum(weights, 1)
        row_max = new_max
        acc = acc * gl.expand_dims(gl.expand_dims(decay, 1), 0)
        p = gl.expand_dims(weights.to(dtype), 0).broadcast_to([4, BLOCK_H, BLOCK_N])
        v = gl.permute(gl.reshape(_transpose_blocks(latent), [BLOCKS, 8, 4, 4, 8, 2, 2]), (2, 0, 3, 6, 4, 5, 1))
        v = gl.convert_layout(gl.reshape(v, [4, BLOCK_N, 128]), gl.DotOperandLayout(1, MMA, 2), assert_trivial=True)
        acc = mma_v2(gl.convert_layout(p, gl.DotOperandLayout(0, MMA, 2), assert_trivial=True), v, acc)
        slot = (slot + 1) % STAGES
    async_copy.wait_group(0)
    barrier()
    out = gl.permute(gl.reshape(acc, [4, BLOCK_H, 8, 2, 4, 2]), (1, 0, 4, 2, 3, 5))
    # Derived anew, so that nothing of it stays in registers across the loop.
    first_head = (program + gl.num_programs(0)) % num_head_blocks * BLOCK_H
    write_result(
        gl.reshape(out, [BLOCK_H, LATENT]), row_max, row_sum, sink_ptr, out_ptr, max_logits_ptr, lse_ptr, partial_ptr,
        partial_max_ptr, partial_sum_ptr, first_head, token, split, (begin >= end).to(gl.int32), num_heads, num_splits,
        has_sink, out_token_stride, out_head_stride,
    )  # fmt: skip
