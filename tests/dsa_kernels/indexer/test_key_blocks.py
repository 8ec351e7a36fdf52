import torch
import triton
import triton.language as tl

from dsa_kernels.indexer.key_blocks import block_threshold, sums_before

#: Bits of a positive float, and its key.
BITS, KEY = 0x3F800000, 0xBF800000


@triton.jit
def threshold_kernel(values_ptr, intervals_ptr, out_ptr):
    row = tl.program_id(0)
    index = tl.arange(0, 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    values = tl.load(values_ptr + row * 64 + index)
    low = tl.load(intervals_ptr + row * 4).to(tl.uint32)
    high = tl.load(intervals_ptr + row * 4 + 1).to(tl.uint32)
    reaching = tl.load(intervals_ptr + row * 4 + 2).to(tl.int32)
    k = tl.load(intervals_ptr + row * 4 + 3).to(tl.int32)
    low, reaching, above = block_threshold(values, low, high, reaching, k, 0, 0)
    tl.store(out_ptr + row * 3, low.to(tl.int64))
    tl.store(out_ptr + row * 3 + 1, reaching)
    tl.store(out_ptr + row * 3 + 2, above)


def test_every_place_in_intervals_of_every_small_width(device):
    """At least three equal values, of which two are wanted, at each place; all others anywhere in the interval."""
    generator = torch.Generator().manual_seed(1)
    values, intervals, expected = [], [], []
    for width in range(2, 34):
        for place in range(width):
            bits = BITS + torch.randint(-1, width, (64,), generator=generator)
            bits[:3] = BITS + place
            above = int((bits > BITS + place).sum())
            values.append(bits.int().view(torch.float32))
            intervals.append([KEY, KEY + width, int((bits >= BITS).sum()), above + 2])
            expected.append([KEY + place, int((bits >= BITS + place).sum()), above])
    out = torch.zeros((len(values), 3), dtype=torch.int64, device=device)
    threshold_kernel[(len(values),)](torch.stack(values).to(device), torch.tensor(intervals).to(device), out)
    assert out.tolist() == expected


@triton.jit
def sums_kernel(counts_ptr, out_ptr, total_ptr, A: tl.constexpr, B: tl.constexpr):
    index = tl.arange(0, A)[:, None] * B + tl.arange(0, B)[None, :]
    before, total = sums_before(tl.load(counts_ptr + index))
    tl.store(out_ptr + index, before)
    tl.store(total_ptr, total)


def test_sums_before(device):
    for a, b in ((2, 512), (8, 512), (2, 32)):
        counts = torch.randint(0, 33, (a * b,), dtype=torch.int32, device=device)
        found, total = torch.zeros_like(counts), torch.zeros(1, dtype=torch.int32, device=device)
        sums_kernel[(1,)](counts, found, total, a, b)
        assert torch.equal(found, counts.cumsum(0).int() - counts)
        assert total.item() == counts.sum()
