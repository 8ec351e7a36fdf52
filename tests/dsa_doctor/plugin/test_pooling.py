"""Pools whose tokens come in several chunks: what is kept of a chunk, and what the next one finds."""

import pytest
import torch

from dsa_doctor.plugin.pooling import kpool_seed_tail_cache, pad_indexer_heads, pools_of

POOL = 4
NULL, *BLOCKS = range(4)


def tail(ring: int) -> torch.Tensor:
    """Blocks of open pools with another layer's pages between them; block 0 belongs to nobody."""
    apart = torch.full((4, 2, 2, ring, 128), 77.0).bfloat16()
    return apart[:, 0]


def slots(block: int, first: int, end: int, ring: int) -> list[int]:
    return [block * ring + position % ring for position in range(first, end)]


@pytest.mark.parametrize("ring", [4, 8])
@pytest.mark.parametrize("ends", [[1, 2, 3, 9], [6, 13], [5, 6, 8, 17], [20]])
def test_a_pool_is_the_last_tokens_of_its_request_however_the_prompt_is_cut(ring: int, ends: list[int]) -> None:
    generator = torch.Generator().manual_seed(ends[0])
    tokens = [torch.randn(2, ends[-1], 128, generator=generator).bfloat16() for _ in BLOCKS]
    kept = tail(ring)
    first = 0
    for end in ends:
        where = torch.tensor([slot for block in BLOCKS for slot in slots(block, first, end, ring)] + [-1, -1])
        keys, gates = (
            torch.cat([*(one[part, first:end] for one in tokens), torch.zeros(2, 128).bfloat16()]) for part in (0, 1)
        )
        pooled = pools_of(keys, gates, kept, where, POOL)
        kpool_seed_tail_cache(kept, keys, gates, where, POOL)
        at = 0
        for one in tokens:
            for position in range(first, end):
                if position + 1 >= POOL:
                    wanted = one[:, position + 1 - POOL : position + 1]
                    assert torch.equal(torch.stack([part[at] for part in pooled]), wanted)
                at += 1
        first = end


def test_what_lies_between_the_blocks_is_left_alone() -> None:
    kept = tail(POOL)
    between = kept.as_strided(kept.shape, kept.stride(), kept.stride(0) // 2)
    keys = torch.randn(9, 128).bfloat16()
    kpool_seed_tail_cache(kept, keys, keys, torch.tensor(slots(2, 0, 9, POOL)), POOL)
    assert (between == 77).all()
    assert torch.equal(kept[2, 0], keys[[8, 5, 6, 7]])
    assert (kept[[1, 3]] == 77).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float32])
@pytest.mark.parametrize("shape", [(5, 16, 128), (5, 16), (0, 16, 128)])
def test_padded_heads_are_zeros_behind_the_others(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).to(dtype)
    padded = pad_indexer_heads(x, 16)
    assert padded.dtype is dtype
    assert padded.shape == (shape[0], 32, *shape[2:])
    assert torch.equal(padded.float()[:, :16], x.float())
    assert not padded.float()[:, 16:].any()
