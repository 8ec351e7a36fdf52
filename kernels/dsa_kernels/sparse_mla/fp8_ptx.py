"""PTX that decodes e4m3 codes in registers, for the Gluon kernels over fp8_ds_mla rows.

Sixteen codes with one fp32 scale at a time, 128 bits of one row: $0 to $7 are pairs in the dtype of the result, $8 to
$11 the codes, $12 the scale (and $13 to $27 the same scale again: Triton passes one for each code).
"""

CONSTRAINTS = ",".join(["=&r"] * 8 + ["r"] * 20)

_TO_PAIR = {"bf16": "cvt.rn.bf16x2.f32", "fp16": "cvt.rn.f16x2.f32"}


def decode_by_integers(dtype: str) -> str:
    """For any target: the bits of a code are moved to those of an fp16 that is 2^-8 of it, subnormal codes included.

    Args:
        dtype: "bf16" or "fp16", of the results.
    """
    lines = [".reg .b32 sum, bad, pair;", ".reg .f32 scale, a, b, c, d;", ".reg .b16 low, high;", ".reg .pred nan;"]
    lines += ["mov.b32 bad, 0;"]
    for word in range(8, 12):
        # Adding one flips the top bit of a byte for NaN (0x7f, 0xff) alone, or by a carry out of NaN in the byte below.
        lines += [f"add.u32 sum, ${word}, 0x01010101;", f"lop3.b32 bad, bad, sum, ${word}, 0xf6;"]  # bad | (sum ^ word)
    # One NaN makes NaN of its sixteen: any of them makes the row's logits NaN, and so the whole output.
    lines += ["and.b32 bad, bad, 0x80808080;", "setp.ne.u32 nan, bad, 0;"]
    lines += ["mul.f32 scale, $12, 0f43800000;", "selp.f32 scale, 0f7fffffff, scale, nan;"]  # 256, NaN
    for word in range(4):
        for bytes_and_signs, first, second in (("0xa280", "a", "c"), ("0xb391", "b", "d")):
            lines += [
                f"prmt.b32 pair, ${8 + word}, 0, {bytes_and_signs};",
                "shl.b32 pair, pair, 7;",
                "and.b32 pair, pair, 0xbf80bf80;",
                "mov.b32 {low, high}, pair;",
                f"cvt.f32.f16 {first}, low;",
                f"cvt.f32.f16 {second}, high;",
                f"mul.f32 {first}, {first}, scale;",
                f"mul.f32 {second}, {second}, scale;",
            ]
        lines += [f"{_TO_PAIR[dtype]} ${2 * word}, b, a;", f"{_TO_PAIR[dtype]} ${2 * word + 1}, d, c;"]
    return "{" + "\n".join(lines) + "}"


def decode_by_conversion(dtype: str) -> str:
    """For 8.9 and newer, which convert two codes to fp16 in one instruction.

    Args:
        dtype: "bf16" or "fp16", of the results.
    """
    lines = [".reg .b32 pair;", ".reg .f32 a, b;", ".reg .b16 codes<2>, low, high;"]
    for word in range(4):
        lines += [f"mov.b32 {{codes0, codes1}}, ${8 + word};"]
        for half in range(2):
            lines += [
                f"cvt.rn.f16x2.e4m3x2 pair, codes{half};",
                "mov.b32 {low, high}, pair;",
                "cvt.f32.f16 a, low;",
                "cvt.f32.f16 b, high;",
                "mul.f32 a, a, $12;",
                "mul.f32 b, b, $12;",
                f"{_TO_PAIR[dtype]} ${2 * word + half}, b, a;",
            ]
    return "{" + "\n".join(lines) + "}"
