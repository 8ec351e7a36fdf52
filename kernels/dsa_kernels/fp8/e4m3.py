"""Device functions that decode and encode float8 e4m3 (fn) bytes without the float8 type."""

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


@triton.jit
def decode_e4m3_small(codes):
    """Decode finite e4m3fn bytes to fp16, scaled by 2^-8: two integer operations, no multiplication.

    The scale is a power of two, and e4m3's smallest subnormal times 2^-8 is 2^-17, still a number in fp16: exact, so a
    dot of two such operands is the true dot times 2^-16, exactly. The NaN codes 0x7f and 0xff come out as ±480 * 2^-8.

    Args:
        codes: uint8 block of any shape.

    Returns:
        fp16 block of the same shape.
    """
    wide = codes.to(tl.int8, bitcast=True).to(tl.int16)
    # The sign, extended to bits 7 to 15, lands on bits 14 and 15; bit 14 is the top of fp16's exponent and stays 0.
    return ((wide << 7) & -0x4080).to(tl.float16, bitcast=True)


@triton.jit
def decode_e4m3_pairs(words):
    """Decode two finite e4m3fn bytes per word to fp16, each scaled by 2^-8 as in `decode_e4m3_small`.

    Words instead of bytes: registers hold no packed bytes to pick apart, and Triton plans the dot's operands for 16-bit
    loads, as it should, rather than for 8-bit ones.

    Args:
        words: int16 block of any shape, little-endian pairs of codes.

    Returns:
        Two fp16 blocks of the same shape: the first (low) byte of each pair and the second.
    """
    first = (((words << 8) >> 1) & -0x4080).to(tl.float16, bitcast=True)
    second = ((words >> 1) & -0x4080).to(tl.float16, bitcast=True)
    return first, second


@triton.jit
def encode_e4m3(values):
    """Encode fp32 as e4m3fn bytes: round to nearest even, saturate at ±448, keep NaN.

    Args:
        values: fp32 block of any shape.

    Returns:
        uint8 block of the same shape, bit for bit what torch gives for `values.clamp(-448, 448).to(float8_e4m3fn)`.

    Source: OCP 8-bit floating point specification, E4M3 (exponent bias 7, 3 mantissa bits); torch.float8_e4m3fn.
    """
    bits = values.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 0x80
    magnitude = bits & 0x7FFFFFFF
    # 448 as fp32; everything above it, infinity included, saturates.
    clamped = tl.minimum(magnitude, 0x43E00000)
    # Keep 3 of 23 mantissa bits: add half of the last kept place, less one when that place is even.
    rounded = clamped + 0x7FFFF + ((clamped >> 20) & 1)
    normal = (rounded >> 20) - ((127 - 7) << 3)
    # Below 2^-6 the grid is 2^-9: adding 2^14, whose last place is 2^-9, lets the hardware round to it.
    shifted = clamped.to(tl.float32, bitcast=True) + 16384.0
    subnormal = shifted.to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(clamped < 0x3C800000, subnormal, normal)
    code = tl.where(magnitude > 0x7F800000, 0x7F, code)
    return (sign | code).to(tl.uint8)


@triton.jit
def power_of_two_scale(amax, floor):
    """The smallest power of two that is at least max(amax, floor) / 448, from the bits: no logarithm rounds it.

    Args:
        amax: fp32, largest magnitude of a group.
        floor: fp32, smallest magnitude taken into account.

    Returns:
        fp32 power of two.
    """
    # 1/448 is not a number of fp32: divide, correctly rounded, as the CUDA ops do.
    raw = tl.div_rn(tl.maximum(amax, floor), tl.full(amax.shape, 448.0, tl.float32))
    bits = raw.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def round_to_bf16(values):
    """Round finite fp32 to the nearest bf16, ties to even, and keep it as fp32.

    In integers, so that it is the same everywhere: Triton's interpreter truncates where a GPU rounds.
    """
    bits = values.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
