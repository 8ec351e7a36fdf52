"""Inputs and comparisons of the pooled index keys' tests."""

import torch

from dsa_kernels.fp8 import naive_read_indexer_cache

POOL, DIM = 4, 128
POISON = 0x5A


def random_rows(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16()


def poisoned_cache(num_pages: int, page_size: int, apart: int = 1) -> torch.Tensor:
    """Pages of a byte that no write leaves there; every `apart`-th page of a larger allocation."""
    return torch.full((num_pages * apart, page_size, DIM + 4), POISON, dtype=torch.uint8)[::apart]


def values(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return codes.float() * scale.reshape(-1, 1)


def assert_same_keys(got: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Equal but where a sum lies between two bf16 numbers: one step of e4m3 then, and in few places."""
    found, expected = values(*got), values(*wanted)
    step = torch.maximum(expected.abs() / 8, wanted[1].reshape(-1, 1) * 2.0**-9)
    assert ((found - expected).abs() <= step * 1.001).all()
    assert (found != expected).float().mean() < 0.02


def assert_same_caches(got: torch.Tensor, wanted: torch.Tensor, slots: torch.Tensor) -> None:
    """Compare the written slots as keys, and everything else byte by byte."""
    written = torch.unique(slots[slots >= 0].long())
    assert_same_keys(naive_read_indexer_cache(got, written), naive_read_indexer_cache(wanted, written))
    page_size = got.shape[1]
    untouched = torch.ones(got.shape[0] * page_size, dtype=torch.bool)
    untouched[written.cpu()] = False
    for cache in (got, wanted):
        pages = cache.reshape(cache.shape[0], -1).cpu()
        codes = pages[:, : page_size * DIM].reshape(-1, DIM)[untouched]
        scales = pages[:, page_size * DIM :].reshape(-1, 4)[untouched]
        assert (codes == POISON).all()
        assert (scales == POISON).all()
