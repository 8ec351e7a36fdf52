"""Triton kernel of the engram's lookup: rows of e4m3 codes and scales to bf16."""

import triton
import triton.language as tl

from dsa_kernels.fp8.e4m3 import decode_e4m3


@triton.jit
def decode_e8m0(exponents):
    """Decode e8m0 bytes to fp32: 2^(byte - 127), NaN for 255.

    Source: OCP microscaling formats, E8M0; torch.float8_e8m0fnu.
    """
    wide = exponents.to(tl.int32)
    # 2^-127 is no normal number of fp32, and has no byte's worth of an exponent.
    bits = tl.where(wide == 0, 0x400000, wide << 23)
    return tl.where(wide == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)


@triton.jit(
    do_not_specialize=[
        "first_id",
        "table_rows",
        "count",
        "heads",
        "first_head",
        "all_heads",
        "id_stride",
        "head_stride",
    ],
    do_not_specialize_on_alignment=["scale_ptr", "id_ptr"],
)
def lookup_kernel(
    table_ptr,
    scale_ptr,
    id_ptr,
    out_ptr,
    first_id,
    table_rows,
    count,
    heads,
    first_head,
    all_heads,
    id_stride,
    head_stride,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Rows of the output by turns: `count` of them, `heads` a token; zeros where the id is not of this table."""
    dims = tl.arange(0, WIDTH)
    groups = tl.arange(0, WIDTH // GROUP)
    for base in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = base + tl.arange(0, ROWS)
        inside = row < count
        head = first_head + row % heads
        token = (row // heads).to(tl.int64)
        known = inside & (head < all_heads)
        place = tl.load(id_ptr + token * id_stride + head.to(tl.int64) * head_stride, mask=known, other=-1)
        place = place.to(tl.int64) - first_id
        owned = known & (place >= 0) & (place < table_rows)
        place = tl.where(owned, place, 0)[:, None]
        codes = tl.load(table_ptr + place * WIDTH + dims[None, :], mask=owned[:, None], other=0)
        exponents = tl.load(scale_ptr + place * (WIDTH // GROUP) + groups[None, :], mask=owned[:, None], other=127)
        values = tl.reshape(decode_e4m3(codes).to(tl.float32), (ROWS, WIDTH // GROUP, GROUP))
        scaled = tl.reshape(values * decode_e8m0(exponents)[:, :, None], (ROWS, WIDTH))
        target = out_ptr + row.to(tl.int64)[:, None] * WIDTH + dims[None, :]
        tl.store(target, scaled.to(tl.bfloat16), mask=inside[:, None])
