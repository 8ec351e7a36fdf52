"""Caches of more than 2^31 elements. Memory that is never touched costs nothing, so real ones work on the CPU too."""

import pytest
import torch

from dsa_kernels.sparse_mla import sparse_mla_fwd, sparse_mla_with_kvcache
from tests.dsa_kernels.sparse_mla.cases import assert_close, make_case
from tests.dsa_kernels.sparse_mla.test_kvcache import fp8_tokens


def _lonely_rows(rows: int) -> torch.Tensor:
    """Rows around each power of two that 32-bit element or byte offsets could wrap at, and the last one."""
    marks = {2**bits // step for bits in (31, 32) for step in (576, 656, 1152, 512)}
    near = sorted({row for mark in marks for row in (mark - 1, mark, mark + 1)} | {0, rows - 1})
    return torch.tensor([row for row in near if row < rows])


def _expect_same(big, small):
    for name, got, wanted in zip(("out", "lse"), (big[0], big[-1]), (small[0], small[-1]), strict=True):
        assert_close(name, got, wanted, 1e-6)


def test_flat_cache(device):
    rows = 2**32 // 576 + 1000
    kv = torch.empty(rows, 1, 576, dtype=torch.bfloat16, device=device)
    picked = _lonely_rows(rows)
    case = make_case(device, tokens=1, topk=picked.numel(), rows=picked.numel())
    kv[picked.to(device)] = case.kv
    indices = picked[case.indices[0, 0].long().cpu()].to(torch.int32).to(device)[None, None, :]
    _expect_same(
        sparse_mla_fwd(case.q, kv, indices, case.sm_scale), sparse_mla_fwd(case.q, case.kv, case.indices, case.sm_scale)
    )


@pytest.mark.parametrize("kv_format", ["bf16", "fp8_ds_mla"])
@pytest.mark.parametrize("apart", [False, True], ids=["one after the other", "lying apart"])
def test_paged_cache(device, kv_format, apart):
    page_size, width, dtype = (64, 576, torch.bfloat16) if kv_format == "bf16" else (64, 656, torch.uint8)
    limit = 2**32 if kv_format == "bf16" else 2**32 + 2**31
    pages = limit // (page_size * width) + 2
    room = torch.empty(pages, page_size, 1, width, dtype=dtype, device=device)
    cache = room[::2] if apart else room
    rows = cache.shape[0] * page_size
    picked = _lonely_rows(rows) if not apart else torch.cat([_lonely_rows(rows), _lonely_rows(2 * rows) // 2])
    picked = picked.unique()
    case = make_case(device, tokens=1, topk=picked.numel(), rows=picked.numel())
    tokens = case.kv[:, 0] if kv_format == "bf16" else fp8_tokens((picked.numel(),), seed=5).to(device)
    at = picked.to(device)
    cache[at // page_size, at % page_size, 0] = tokens
    indices = picked[case.indices[0, 0].long().cpu()].to(torch.int32).to(device)[None, None, :]
    small = tokens[:, None, None, :].contiguous()
    _expect_same(
        sparse_mla_with_kvcache(case.q, cache, indices, case.sm_scale, kv_format=kv_format),
        sparse_mla_with_kvcache(case.q, small, case.indices, case.sm_scale, kv_format=kv_format),
    )
