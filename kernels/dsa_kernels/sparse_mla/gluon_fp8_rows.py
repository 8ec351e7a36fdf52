"""fp8_ds_mla rows in the Gluon kernels: gathered as they are, decoded in registers."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from dsa_kernels.gluon_support import copy_to_shared
from dsa_kernels.sparse_mla import fp8_ptx
from dsa_kernels.sparse_mla.gluon_rows import row_starts

_CONSTRAINTS = gl.constexpr(fp8_ptx.CONSTRAINTS)
_INTEGERS_TO_BF16 = gl.constexpr(fp8_ptx.decode_by_integers("bf16"))
_INTEGERS_TO_FP16 = gl.constexpr(fp8_ptx.decode_by_integers("fp16"))
_CONVERT_TO_BF16 = gl.constexpr(fp8_ptx.decode_by_conversion("bf16"))
_CONVERT_TO_FP16 = gl.constexpr(fp8_ptx.decode_by_conversion("fp16"))


@gluon.jit
def stage_fp8_rows(STAGES: gl.constexpr, N: gl.constexpr):
    """Shared memory for the parts of gathered rows, as int32: codes [STAGES, N, 128], scales [.., 4], rope [.., 32]."""
    codes = gl.allocate_shared_memory(gl.int32, [STAGES, N, 128], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    scales = gl.allocate_shared_memory(gl.int32, [STAGES, N, 4], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    ropes = gl.allocate_shared_memory(gl.int32, [STAGES, N, 32], gl.SwizzledSharedLayout(8, 1, 4, [1, 0]))
    return codes, scales, ropes


@gluon.jit
def view_staged(codes, scales, ropes):
    """One stage of `stage_fp8_rows` as what it is: int8 [N, 512], fp32 [N, 4], bf16 [N, 64]."""
    N: gl.constexpr = codes.shape[0]
    code_bytes = codes._reinterpret(gl.int8, [N, 512], gl.SwizzledSharedLayout(16, 1, 8, [1, 0]))
    scale_values = scales._reinterpret(gl.float32, [N, 4], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    return code_bytes, scale_values, ropes._reinterpret(gl.bfloat16, [N, 64], gl.SwizzledSharedLayout(16, 1, 4, [1, 0]))


@gluon.jit
def gather_fp8_rows(
    token_ptr,
    rows,
    num_rows,
    page_stride,
    row_stride,
    codes,
    scales,
    ropes,
    PAGE_SIZE: gl.constexpr,
    COPY: gl.constexpr,
):
    """Start copying `rows` ([N], sliced from COPY) to one stage, zeros where a row is not valid."""
    units, mask = row_starts(rows, num_rows, page_stride, row_stride, PAGE_SIZE)
    starts = token_ptr + units * 4
    # A token is its codes, its scales and its rope part, without gaps.
    columns = gl.arange(0, 128, layout=gl.SliceLayout(0, COPY))
    copy_to_shared(codes, starts + gl.expand_dims(columns, 0), mask=mask)
    columns = 128 + gl.arange(0, 4, layout=gl.SliceLayout(0, COPY))
    copy_to_shared(scales, starts + gl.expand_dims(columns, 0), mask=mask)
    columns = 132 + gl.arange(0, 32, layout=gl.SliceLayout(0, COPY))
    copy_to_shared(ropes, starts + gl.expand_dims(columns, 0), mask=mask)
    async_copy.commit_group()


@gluon.jit
def decode_fp8(codes, scales, like, CONVERT: gl.constexpr):
    """Codes (int8 [N, 4, D]) times scales (fp32 [N, 4]) in fp32, rounded once to the dtype of `like`. [N, 4 * D].

    Threads hold sixteen neighbouring columns or a multiple; scales are sliced from the layout of codes.
    """
    BF16: gl.constexpr = like.dtype == gl.bfloat16
    INTEGERS: gl.constexpr = _INTEGERS_TO_BF16 if BF16 else _INTEGERS_TO_FP16
    ASM: gl.constexpr = (_CONVERT_TO_BF16 if BF16 else _CONVERT_TO_FP16) if CONVERT else INTEGERS
    values = gl.inline_asm_elementwise(
        ASM, _CONSTRAINTS, [codes, gl.expand_dims(scales, 2)], dtype=like.dtype, is_pure=False, pack=16
    )
    return gl.reshape(values, [codes.shape[0], 4 * codes.shape[2]])


@gluon.constexpr_function
def _by_lane(rows, width, near):
    """Layout [rows, width] of 8 warps: `near` columns in a thread, eight rows by four columns of those in a warp.

    Eight lanes of eight rows meet every bank once, whatever they read or write 16 bytes of.
    """
    columns = [[0, 1 << bit] for bit in range(near.bit_length() - 1)]
    lanes = [[1, 0], [2, 0], [4, 0], [0, near], [0, 2 * near]]
    far = [[0, column * near] for column in (4, 8, 16, 32) if column * near < width]
    more = far + [[8 << bit, 0] for bit in range(rows.bit_length() - 4)]
    return gl.DistributedLinearLayout(columns + more[3:], lanes, more[:3], [], [rows, width])


@gluon.jit
def decode_fp8_rows(codes, scales, ropes, latent, rope, CONVERT: gl.constexpr):
    """One stage of `stage_fp8_rows` to shared tiles latent [N, 512] and rope [N, 64] of the queries' dtype."""
    N: gl.constexpr = codes.shape[0]
    code_bytes, scale_values, rope_values = view_staged(codes, scales, ropes)
    words = gl.reshape(code_bytes.load(_by_lane(N, 512, 16)), [N, 4, 128])
    latent.store(decode_fp8(words, scale_values.load(gl.SliceLayout(2, words.type.layout)), latent, CONVERT))
    values = rope_values.load(_by_lane(N, 64, 8))
    if rope.dtype != gl.bfloat16:
        values = values.to(gl.float32).to(rope.dtype)
    rope.store(values)
