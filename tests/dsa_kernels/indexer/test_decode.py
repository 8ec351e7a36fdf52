import torch
import triton
import triton.language as tl
from triton.runtime import JITFunction

from dsa_kernels.indexer.logits_kernels import decode_pairs


@triton.jit
def _decode_kernel(words_ptr, first_ptr, second_ptr, COUNT: tl.constexpr, INLINE: tl.constexpr):
    at = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    first, second = decode_pairs(tl.load(words_ptr + at), INLINE)
    tl.store(first_ptr + at, first)
    tl.store(second_ptr + at, second)


def test_every_pair_of_codes_decodes_exactly(device):
    # Under the interpreter this is the way without PTX, on a GPU the one with it.
    words = torch.arange(2**16, dtype=torch.int32).to(torch.int16).to(device)
    first, second = (torch.empty(2**16, dtype=torch.float16, device=device) for _ in range(2))
    _decode_kernel[(16,)](words, first, second, COUNT=2**12, INLINE=isinstance(_decode_kernel, JITFunction))
    expected = words.view(torch.uint8).view(torch.float8_e4m3fn).float().view(-1, 2) / 256
    for found, wanted in ((first, expected[:, 0]), (second, expected[:, 1])):
        finite = torch.isfinite(wanted)
        assert finite.sum() == 254 * 256
        assert torch.equal(found.float()[finite], wanted[finite])
        assert (found[~finite].abs() == 480 / 256).all()
