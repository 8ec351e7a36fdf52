"""Device functions that decode float8 e4m3 (fn) bytes without the float8 type."""

import triton
import triton.language as tl


@triton.jit
def decode_e4m3(codes):
    """Decode e4m3fn bytes to fp16, exactly, for all 256 codes.

    Every finite e4m3 value (±448 down to ±2^-9) is exact in fp16. Shifting the seven magnitude bits into fp16's place
    gives the value times 2^-8 (the biases differ by 8; subnormals of e4m3 land on fp16 numbers with the same
    ratio), so one exact multiplication restores it. 0x7f and 0xff are NaN.

    Args:
        codes: uint8 block of any shape.

    Returns:
        fp16 block of the same shape.

    Source: OCP 8-bit floating point specification, E4M3; torch.float8_e4m3fn.
    """
    wide = codes.to(tl.uint16)
    magnitude = wide & 0x7F
    bits = ((wide & 0x80) << 8) | (magnitude << 7)
    value = bits.to(tl.float16, bitcast=True) * 256.0
    return tl.where(magnitude == 0x7F, float("nan"), value).to(tl.float16)
