"""fp8_ds_mla rows, gathered as 32-bit words and decoded two codes at a time."""

import os

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def _as_fp16(halves):
    """The low 16 bits of int32 lanes, read as fp16."""
    return (halves & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True)


@triton.jit
def decode_e4m3_words(words):
    """Decode words of four e4m3fn codes to fp16, exactly, for all 256 codes.

    The arithmetic of `dsa_kernels.fp8.e4m3.decode_e4m3` on two codes per 32-bit operation: with the seven magnitude
    bits of a code in the low byte of each half, adding one carries into bit 7 only for NaN (0x7f); kept there, it
    becomes the top exponent bit of an fp16 NaN after the shift, and so survives the exact multiplication by 2^8.

    Working on words also keeps 8-bit types out of the operands of the dot, where Triton would choose a layout for 8-bit
    operands, and lets it copy the codes asynchronously.

    Args:
        words: int32 block [N, W], codes in memory order (the lowest byte first).

    Returns:
        fp16 block [N, 4 * W].
    """
    N: tl.constexpr = words.shape[0]
    W: tl.constexpr = words.shape[1]
    odd = words >> 8
    even_magnitude = words & 0x007F007F
    odd_magnitude = odd & 0x007F007F
    even = ((even_magnitude | ((even_magnitude + 0x00010001) & 0x00800080)) << 7) | ((words & 0x00800080) << 8)
    odd = ((odd_magnitude | ((odd_magnitude + 0x00010001) & 0x00800080)) << 7) | ((odd & 0x00800080) << 8)
    first = tl.join(_as_fp16(even), _as_fp16(odd))  # [N, W, 2]: codes 0 and 1
    second = tl.join(_as_fp16(even >> 16), _as_fp16(odd >> 16))  # [N, W, 2]: codes 2 and 3
    codes = tl.permute(tl.join(first, second), (0, 1, 3, 2))  # [N, W, 2, 2]
    return tl.reshape(codes, (N, 4 * W)) * 256.0


@triton.jit
def _decode_once(values):
    """`values`, past an instruction that Triton must not repeat.

    Without it, Triton 3.6 decodes the tile once for each of the two dots, in two layouts.
    """
    if _INTERPRETED:
        once = values
    else:
        once = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [values], dtype=values.dtype, is_pure=False, pack=2)
    return once


@triton.jit
def load_fp8_latent(words_ptr, scale_ptr, units, valid, dtype: tl.constexpr, LATENT: tl.constexpr):
    """Latent part of fp8_ds_mla rows: code times scale in fp32, rounded once to `dtype`.

    Args:
        words_ptr: int32 pointer to the codes of row 0.
        scale_ptr: fp32 pointer to the scales of row 0.
        units: int64 [N], where rows start, in units of 16 bytes.
        valid: [N], rows to load; the others are zeros.
        dtype: dtype of the result.
        LATENT: codes of a row, a multiple of 128.

    Returns:
        [N, LATENT] in `dtype`.
    """
    N: tl.constexpr = units.shape[0]
    GROUPS: tl.constexpr = LATENT // 128
    columns = tl.arange(0, LATENT // 4)
    words = tl.load(words_ptr + (units * 4)[:, None] + columns[None, :], mask=valid[:, None], other=0)
    groups = tl.arange(0, GROUPS)
    scales = tl.load(scale_ptr + (units * 4)[:, None] + groups[None, :], mask=valid[:, None], other=0.0)
    values = tl.reshape(decode_e4m3_words(words).to(tl.float32), (N, GROUPS, 128))
    return _decode_once(tl.reshape(values * scales[:, :, None], (N, LATENT)).to(dtype))
