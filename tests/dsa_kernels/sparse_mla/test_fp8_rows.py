import torch
import triton
import triton.language as tl

from dsa_kernels.sparse_mla.fp8_rows import decode_e4m3_words


@triton.jit
def _decode(words_ptr, out_ptr, N: tl.constexpr, W: tl.constexpr):
    rows = tl.arange(0, N)
    words = tl.load(words_ptr + rows[:, None] * W + tl.arange(0, W)[None, :])
    values = decode_e4m3_words(words)
    tl.store(out_ptr + rows[:, None] * (4 * W) + tl.arange(0, 4 * W)[None, :], values)


def test_every_code_in_every_byte_of_a_word(device):
    codes = torch.arange(256, dtype=torch.uint8)
    # Row r holds the codes shifted by r: each code meets each place of a word, beside different neighbours.
    rows = torch.stack([codes.roll(shift) for shift in (0, 1, 2, 3)]).to(device)
    out = torch.empty(4, 256, dtype=torch.float16, device=device)
    _decode[(1,)](rows.view(torch.int32), out, N=4, W=64)
    wanted = rows.view(torch.float8_e4m3fn).to(torch.float16)
    assert torch.equal(out.isnan(), wanted.isnan())
    assert out.isnan().sum() == 8
    finite = ~wanted.isnan()
    assert torch.equal(out[finite].view(torch.int16), wanted[finite].view(torch.int16))  # the sign of zero too
