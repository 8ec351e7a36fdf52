"""Cases of the indexer's logits, ragged and paged, of the selection, and of both in chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dsa_kernels.bench.case import INVARIANT, Case, Peer, named
from dsa_kernels.bench.gate import GateError, require, require_equal
from dsa_kernels.bench.inputs import PAGE_SIZE, random_codes, random_indexer_cache, rotations, spaced
from dsa_kernels.bench.work import INDEX_DIM, chunked_work, paged_logits_work, ragged_logits_work, topk_work
from dsa_kernels.indexer.chunked import indexer_topk
from dsa_kernels.indexer.naive import naive_fp8_mqa_logits, naive_fp8_paged_mqa_logits, naive_topk_indices
from dsa_kernels.indexer.paged import fp8_paged_mqa_logits
from dsa_kernels.indexer.ragged import fp8_mqa_logits
from dsa_kernels.indexer.topk import topk_indices

LIMIT = 1e-5
CHECKED_ROWS = 8
CHECKED_REQUESTS = 2


@dataclass(frozen=True)
class RaggedInputs:
    """Causal prefill: row i of M is token N - M + i of N keys. Arguments of `fp8_mqa_logits` by name."""

    q: torch.Tensor
    k: torch.Tensor
    scale: torch.Tensor
    weights: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor

    @property
    def pairs(self) -> float:
        """(row, key) pairs inside the bounds."""
        return float(self.ends.double().sum())

    def expected(self, rows: list[int]) -> torch.Tensor:
        """The reference on some rows, fp64, -inf outside the bounds."""
        pick = torch.tensor(rows, device=self.q.device)
        q = self.q.view(torch.uint8)[pick]
        return naive_fp8_mqa_logits(q, (self.k, self.scale), self.weights[pick], self.starts[pick], self.ends[pick])

    def check_logits(self, name: str, logits: torch.Tensor, limit: float = LIMIT) -> float:
        """Gate logits [M, N] on rows spread over M; what lies outside the bounds may hold anything."""
        rows = spaced(self.q.shape[0], CHECKED_ROWS)
        wanted = self.expected(rows)
        return require(name, logits[rows].masked_fill(wanted == float("-inf"), float("-inf")), wanted, limit)


def ragged_inputs(rows: int, keys: int, heads: int, device: torch.device | str = "cuda") -> RaggedInputs:
    """Draw them; `keys` is at least `rows`."""
    return RaggedInputs(
        random_codes(rows, heads, INDEX_DIM, device=device),
        random_codes(keys, INDEX_DIM, device=device),
        torch.rand(keys, device=device) + 0.5,
        torch.randn(rows, heads, device=device),
        torch.zeros(rows, dtype=torch.int32, device=device),
        torch.arange(keys - rows + 1, keys + 1, dtype=torch.int32, device=device),
    )


def ragged_case(inputs: RaggedInputs, shape: dict[str, int | str]) -> Case:
    """`fp8_mqa_logits` without cleaning, as vLLM calls it."""
    rows, heads = inputs.q.shape[0], inputs.q.shape[1]

    def run() -> torch.Tensor:
        kv = (inputs.k, inputs.scale)
        return fp8_mqa_logits(inputs.q, kv, inputs.weights, inputs.starts, inputs.ends, clean_logits=False)

    work = ragged_logits_work(rows, inputs.k.shape[0], inputs.pairs, heads)
    op = "ragged logits"
    return Case(op, shape, work, LIMIT, lambda: inputs.check_logits(named(op, shape), run()), [run])


def chunked_case(inputs: RaggedInputs, topk: int, shape: dict[str, int | str]) -> Case:
    """`indexer_topk` at its default budget.

    Gate: the reference's logits at the positions selected are, in size order, the reference's largest.
    """
    rows, keys = inputs.q.shape[0], inputs.k.shape[0]

    def run() -> torch.Tensor:
        kv = (inputs.k, inputs.scale)
        return indexer_topk(inputs.q, kv, inputs.weights, inputs.starts, inputs.ends, topk)

    def check() -> float:
        some = spaced(rows, CHECKED_ROWS)
        logits, found, name = inputs.expected(some), run()[some].long(), named("indexer_topk", shape)
        worst = 0.0
        for row, selected, end in zip(logits, found, inputs.ends[some].tolist(), strict=True):
            inside = selected[selected >= 0]
            count = min(topk, end)
            if inside.numel() != count or inside.unique().numel() != count or int(inside.max()) >= end:
                raise GateError(f"{name}: {inside.unique().numel()} keys selected, {count} expected")
            wanted = row.topk(count).values
            worst = max(worst, require(name, row[inside].sort(descending=True).values, wanted, LIMIT))
        return worst

    work = chunked_work(rows, keys, inputs.pairs, inputs.q.shape[1], topk)
    return Case("indexer_topk", shape, work, LIMIT, check, [run])


@dataclass(frozen=True)
class PagedInputs:
    """A decode batch, every request at the same context, pages in random order; one block table for each rotation.

    The result has `width` columns: as many as the context, or, as under CUDA graphs, as the longest a server takes.
    """

    q: torch.Tensor
    cache: torch.Tensor
    weights: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor
    context: int
    width: int

    def run(self, table: torch.Tensor, batch_invariant: bool = False) -> torch.Tensor:
        """`fp8_paged_mqa_logits` without cleaning, as vLLM calls it."""
        given = self.q, self.cache, self.weights, self.lengths, table, None, self.width
        return fp8_paged_mqa_logits(*given, clean_logits=False, batch_invariant=batch_invariant)

    def check_logits(self, name: str, logits: torch.Tensor, limit: float = LIMIT) -> float:
        """Gate logits of the first block table on the first and the last request."""
        batch, next_n = self.q.shape[0], self.q.shape[1]
        pages = self.tables.shape[2]
        in_order = torch.arange(pages, dtype=torch.int32, device=self.q.device).unsqueeze(0)
        worst = 0.0
        for one in spaced(batch, CHECKED_REQUESTS):
            rows = slice(one * next_n, (one + 1) * next_n)
            wanted = naive_fp8_paged_mqa_logits(
                self.q.view(torch.uint8)[one : one + 1],
                self.cache[self.tables[0, one].long()],
                self.weights[rows],
                self.lengths[one : one + 1],
                in_order,
                self.context,
            )
            got = logits[rows, : self.context].masked_fill(wanted == float("-inf"), float("-inf"))
            worst = max(worst, require(name, got, wanted, limit))
        return worst


def paged_inputs(
    batch: int,
    next_n: int,
    context: int,
    heads: int,
    l2_bytes: int,
    most_pages: int | None = None,
    width: int | None = None,
    device: torch.device | str = "cuda",
) -> PagedInputs:
    """Draw them; with fewer than `batch` contexts' worth of pages in `most_pages`, requests share pages.

    The width is the context unless given.
    """
    pages = -(-context // PAGE_SIZE)
    sets = rotations(l2_bytes, batch * context * 132, 16)
    if most_pages is not None:
        sets = max(1, min(sets, most_pages // (batch * pages)))
    needed = batch * pages * sets
    num_pages = min(needed, most_pages or needed)
    order = torch.randperm(needed, device=device) % num_pages
    steps = torch.arange(1 - next_n, 1, dtype=torch.int32, device=device)
    return PagedInputs(
        random_codes(batch, next_n, heads, INDEX_DIM, device=device),
        random_indexer_cache(num_pages, device),
        torch.randn(batch * next_n, heads, device=device),
        (context + steps).expand(batch, next_n).contiguous(),
        order.to(torch.int32).view(sets, batch, pages),
        context,
        width or context,
    )


def paged_case(inputs: PagedInputs, shape: dict[str, int | str], batch_invariant: bool = False) -> Case:
    """The case over inputs from `paged_inputs`; by choice with the batch-invariant op as a peer."""
    batch, next_n, heads, _ = inputs.q.shape
    op = "paged logits"
    calls = [(lambda table=table: inputs.run(table)) for table in inputs.tables]
    work = paged_logits_work(batch, next_n, inputs.context, heads)

    def check(invariant: bool = False) -> float:
        return inputs.check_logits(named(op, shape), inputs.run(inputs.tables[0], invariant))

    case = Case(op, shape, work, LIMIT, check, calls)
    if batch_invariant:
        invariant = [(lambda table=table: inputs.run(table, True)) for table in inputs.tables]
        case.peers[INVARIANT] = Peer(invariant, lambda: check(True))
    return case


@dataclass(frozen=True)
class TopkInputs:
    """Normally distributed logits [rows, width] fp32 for each rotation, where each row ends, and the result."""

    draws: list[torch.Tensor]
    ends: torch.Tensor
    out: torch.Tensor

    def check_selection(self, name: str) -> float:
        """Gate `out`, the selection from the first draw, on rows spread over it: the same positions in any order."""
        rows = spaced(self.out.shape[0], CHECKED_ROWS)
        wanted = naive_topk_indices(self.draws[0][rows], None, self.ends[rows], self.out.shape[1])
        return require_equal(name, self.out[rows].sort(dim=1).values, wanted.sort(dim=1).values)


def topk_inputs(
    rows: int, width: int, topk: int, l2_bytes: int, device: torch.device | str = "cuda", causal: bool = False
) -> TopkInputs:
    """Draw them; causal rows end one later each, the last at `width`."""
    draws = rotations(l2_bytes, rows * width * 4, 16)
    ends = torch.full((rows,), width, dtype=torch.int32, device=device)
    if causal:
        ends = torch.arange(width - rows + 1, width + 1, dtype=torch.int32, device=device)
    return TopkInputs(
        [torch.randn(rows, width, device=device) for _ in range(draws)],
        ends,
        torch.empty(rows, topk, dtype=torch.int32, device=device),
    )


def topk_case(inputs: TopkInputs, shape: dict[str, int | str]) -> Case:
    """`topk_indices` over whole rows."""
    rows, topk = inputs.out.shape

    def run(logits: torch.Tensor) -> torch.Tensor:
        return topk_indices(logits, None, inputs.ends, topk, out=inputs.out)

    def check() -> float:
        inputs.out.fill_(-2)
        run(inputs.draws[0])
        return inputs.check_selection(named("top-k", shape))

    read = float(inputs.ends.double().mean())
    calls = [(lambda logits=logits: run(logits)) for logits in inputs.draws]
    return Case("top-k", shape, topk_work(rows, round(read), topk), 0.0, check, calls)
