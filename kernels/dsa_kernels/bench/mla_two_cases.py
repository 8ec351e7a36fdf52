"""Cases of sparse MLA attention over two caches, beside the same rows in one cache and beside two calls and a merge."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from dsa_kernels.bench.case import Case, Peer, named
from dsa_kernels.bench.gate import GateError, require
from dsa_kernels.bench.inputs import PAGE_SIZE, random_rows, random_selection, rotations, spaced
from dsa_kernels.bench.mla_cases import CHECKED_TOKENS, LIMIT
from dsa_kernels.bench.work import VALUE_DIM, sparse_mla_work
from dsa_kernels.sparse_mla.interface import sparse_mla_with_kvcache
from dsa_kernels.sparse_mla.naive import naive_sparse_mla_fwd

SCALE = VALUE_DIM**-0.5
#: What each token selects from the first and from the second cache, [tokens, 1, width] int32 each.
Selection = tuple[torch.Tensor, torch.Tensor]


def two_cache_case(
    tokens: int,
    heads: int,
    widths: tuple[int, int],
    page_sizes: tuple[int, int],
    rows: tuple[int, int],
    l2_bytes: int,
    shape: dict[str, int | str],
    device: torch.device | str = "cuda",
) -> Case:
    """`sparse_mla_with_kvcache` with an extra_kv_cache and a sink. Gate: some tokens.

    Args:
        tokens: query tokens.
        heads: heads of this rank.
        widths: rows that a token selects from either cache.
        page_sizes: rows of a page of either cache.
        rows: rows of either cache, multiples of their pages and of 64.
        l2_bytes: so many selections are drawn that a round over them touches four times as much, where the caches hold
            as much as one of them gathers.
        shape: what the table says of the shape.
        device: where.
    """
    both = random_rows(sum(rows), VALUE_DIM, device)
    caches = [
        part.view(-1, page_size, 1, VALUE_DIM) for part, page_size in zip(both.split(rows), page_sizes, strict=True)
    ]
    q = torch.randn(tokens, heads, VALUE_DIM, device=device, dtype=torch.bfloat16)
    sink = torch.linspace(-3, 3, heads, device=device)
    out = torch.empty_like(q)
    gathered = tokens * sum(widths)
    count = 1 if gathered > sum(rows) else rotations(l2_bytes, gathered * VALUE_DIM * 2, 64)
    selections: list[Selection] = [
        (
            random_selection(tokens, widths[0], rows[0], torch.device(device)),
            random_selection(tokens, widths[1], rows[1], torch.device(device)),
        )
        for _ in range(count)
    ]
    joined = [torch.cat((first, second + rows[0]), dim=2).contiguous() for first, second in selections]
    op = "sparse MLA, two caches"
    name = named(op, shape)

    def run(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        extra = {"extra_kv_cache": caches[1], "extra_indices": second}
        return sparse_mla_with_kvcache(q, caches[0], first, SCALE, attn_sink=sink, out=out, **extra)[0]

    def one_cache(indices: torch.Tensor) -> torch.Tensor:
        pages = both.view(-1, PAGE_SIZE, 1, VALUE_DIM)
        return sparse_mla_with_kvcache(q, pages, indices, SCALE, attn_sink=sink, out=out)[0]

    def two_calls(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        parts = [sparse_mla_with_kvcache(q, *given, SCALE) for given in zip(caches, (first, second), strict=True)]
        (one, one_lse), (other, other_lse) = parts
        total = torch.logaddexp(torch.logaddexp(one_lse, other_lse), sink)
        share, other_share = (one_lse - total).exp()[..., None], (other_lse - total).exp()[..., None]
        return (share * one + other_share * other).to(q.dtype)

    def judge(result: Callable[[], torch.Tensor], limit: float) -> float:
        some = spaced(tokens, CHECKED_TOKENS)
        out.fill_(float("nan"))
        found = result()
        picked = joined[0][some].long()
        order = torch.arange(picked.numel(), device=picked.device).view(picked.shape).int()
        wanted = naive_sparse_mla_fwd(q[some], both[picked.flatten()], order, SCALE, attn_sink=sink)[0]
        error = require(name, found[some], wanted, limit)
        if not found.isfinite().all():
            raise GateError(f"{name}: output not written everywhere")
        return error

    work = sparse_mla_work(tokens, heads, sum(widths), min(sum(rows), gathered), 2 * VALUE_DIM, VALUE_DIM)
    peers: dict[str, Peer | str] = {
        "one cache": Peer(
            [partial(one_cache, indices) for indices in joined], lambda: judge(lambda: one_cache(joined[0]), LIMIT)
        ),
        # Both results are rounded before they are added up.
        "two calls": Peer(
            [partial(two_calls, *given) for given in selections],
            lambda: judge(lambda: two_calls(*selections[0]), 2 * LIMIT),
        ),
    }
    calls = [partial(run, *given) for given in selections]
    return Case(op, shape, work, LIMIT, lambda: judge(lambda: run(*selections[0]), LIMIT), calls, peers)
