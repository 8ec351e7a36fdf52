"""Self-test of `batch_invariant`: a row gives the same bits whatever else is in its batch, on the GPU at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dsa_kernels import indexer, mhc
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import equal, worst
from dsa_kernels.selftest.logits_inputs import PAGE, ragged
from dsa_kernels.selftest.mhc_cases import operands
from dsa_kernels.selftest.mla_inputs import Inputs, attend, flat, fp8_tokens, paged, some_tokens
from dsa_kernels.selftest.mla_two_cases import PAGES, make
from dsa_kernels.selftest.paged_cases import paged_inputs

#: Rows of the whole batch: more than a tile holds, and no multiple of one.
_ROWS = 33
_INTEGERS = {2: torch.int16, 4: torch.int32}


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(_INTEGERS[values.element_size()])


def _in_any_batch(place: Place, rows: int, serve: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> Outcome:
    """Compare the whole batch with rows alone, two in another order, and what a chunk would cut off."""
    whole = [_bits(one) for one in serve(torch.arange(rows, device=place.device))]
    outcomes = []
    for part in ([0], [rows - 1], [rows - 1, 1], list(range(1, max(2, rows // 2))), list(range(rows // 2, rows))):
        at = torch.tensor(part, device=place.device)
        for got, wanted in zip(serve(at), whole, strict=True):
            outcomes.append(equal(f"bits of rows {part[0]} to {part[-1]}", _bits(got), wanted[at]))
    return worst(outcomes)


def _tokens(place: Place, inputs: Inputs) -> Outcome:
    def serve(at: torch.Tensor) -> list[torch.Tensor]:
        out, lse, _ = attend(some_tokens(inputs, at), batch_invariant=True)
        return [out, lse]

    return _in_any_batch(place, inputs.q.shape[0], serve)


def _attention(place: Place) -> Outcome:
    rows, topk, cached = place.pick(_ROWS, 3), place.pick(2048, 520), place.pick(16_384, 640)
    outcomes = []
    for heads in (8, 64) if place.full else (8,):
        inputs = flat(place, rows, heads, topk, cached)
        lengths = place.whole(place.generator(9), 1, topk + 1, rows).int()
        inputs = replace(inputs, topk_length=lengths)
        outcomes.append(_tokens(place, inputs))
        outcomes.append(_tokens(place, paged(inputs, "fp8_ds_mla", fp8_tokens(place, cached, 3), apart=True)))
    return worst(outcomes)


def _two_caches(place: Place) -> Outcome:
    """The second selection is as wide as the longest of a batch asks for."""
    rows, widths = place.pick(_ROWS, 3), (place.pick(128, 40), place.pick(1024, 70))
    lengths = place.whole(place.generator(9), 1, widths[1] + 1, rows).int()

    def of(heads: int) -> Outcome:
        inputs = replace(make(place, rows, heads, widths, PAGES[1]), extra_topk_length=lengths)

        def serve(at: torch.Tensor) -> list[torch.Tensor]:
            some = some_tokens(inputs, at)
            assert some.extra_indices is not None
            narrow = some.extra_indices[:, :, : int(lengths[at].max())]
            out, lse, _ = attend(replace(some, extra_indices=narrow), batch_invariant=True)
            return [out, lse]

        return _in_any_batch(place, rows, serve)

    return worst(of(heads) for heads in ((8, 64) if place.full else (8,)))


def _logits(place: Place) -> Outcome:
    rows, keys = place.pick(_ROWS, 5), place.pick(3000, 150)
    starts = torch.zeros(rows, dtype=torch.int32, device=place.device)
    ends = place.whole(place.generator(9), 1, keys + 1, rows).int()

    def of(heads: int) -> Outcome:
        q, kv, weights = ragged(place, rows, heads, keys)
        return _in_any_batch(
            place, rows, lambda at: [indexer.fp8_mqa_logits(q[at], kv, weights[at], starts[at], ends[at])]
        )

    return worst(of(heads) for heads in (32, 64))


def _paged_logits(place: Place) -> Outcome:
    """Requests alone and among others, and a row among draft rows of its request."""
    batch, longest = place.pick(9, 3), place.pick(4000, 2 * PAGE)
    everything = torch.arange(batch, device=place.device)

    def of(heads: int) -> Outcome:
        q, cache, weights, tables = paged_inputs(place, batch, 1, heads, longest)
        lengths = place.whole(place.generator(9), 1, longest + 1, batch, 1).int()

        def serve(at: torch.Tensor, drafts: int = 1) -> list[torch.Tensor]:
            given = q[at].expand(-1, drafts, -1, -1), cache, weights[at].repeat_interleave(drafts, 0)
            seen = lengths[at].expand(-1, drafts)
            return [indexer.fp8_paged_mqa_logits(*given, seen, tables[at], None, longest, batch_invariant=True)]

        outcomes = [_in_any_batch(place, batch, serve)]
        alone = _bits(serve(everything)[0])
        for drafts in (2, 3, 4):
            found = _bits(serve(everything, drafts)[0])
            outcomes.append(equal(f"bits with next_n {drafts}", found, alone.repeat_interleave(drafts, 0)))
        return worst(outcomes)

    return worst(of(heads) for heads in (32, 64))


def _product(place: Place) -> Outcome:
    """Tokens of mHC's product, and the number of splits that the batch asks for."""
    rows, k = place.pick(200, 33), place.pick(16_384, 2048)
    x, fn = operands(place, rows, k)

    def serve(at: torch.Tensor) -> list[torch.Tensor]:
        splits = 1 + at.numel() % 4
        out = torch.empty((splits, at.numel(), fn.shape[0]), device=place.device)
        squares = torch.empty((splits, at.numel()), device=place.device)
        mhc.hc_prenorm_gemm(x[at], fn, out, squares, splits, batch_invariant=True)
        return [out.sum(0), squares.sum(0)]

    return _in_any_batch(place, rows, serve)


_FAULT = "parts or tiles that follow the batch"
CASES = (
    Case("attention in any batch", "sparse_mla", _FAULT, _attention),
    Case("attention over two caches in any batch", "sparse_mla", _FAULT, _two_caches),
    Case("logits in any batch", "indexer_logits", _FAULT, _logits),
    Case("paged logits in any batch", "indexer_logits", _FAULT, _paged_logits),
    Case("mHC product in any batch", "mhc", _FAULT, _product),
)
