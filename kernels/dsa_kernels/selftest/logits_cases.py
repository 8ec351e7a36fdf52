"""Self-test of the indexer's logits over flat keys."""

from __future__ import annotations

import torch

from dsa_kernels import indexer
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import equal, require, worst
from dsa_kernels.selftest.logits_inputs import judge, ragged

_INF = float("inf")


def _compare(
    inputs: tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor],
    starts: torch.Tensor,
    ends: torch.Tensor,
    compressed: int = 0,
) -> Outcome:
    starts, ends = starts.int(), ends.int()
    got = indexer.fp8_mqa_logits(*inputs, starts, ends, max_seqlen_k=compressed)
    return judge(got, indexer.naive_fp8_mqa_logits(*inputs, starts, ends, max_seqlen_k=compressed))


def _two_requests(place: Place) -> Outcome:
    rows, keys = place.pick(515, 70), place.pick(16_385, 290)
    row = torch.arange(rows, device=place.device)
    second, half = row >= rows // 2, keys // 2 - 3
    starts = torch.where(second, half, 0)
    ends = torch.where(second, half + 1 + (row - rows // 2) * 7, 1 + row * 5).clamp_max(keys)
    return worst(
        _compare(ragged(place, rows, heads, keys, seed), starts, ends, width)
        for heads, seed, width in ((64, 0, 0), (32, 4, 0), (64, 8, place.pick(4099, 130)))
    )


def _tails(place: Place) -> Outcome:
    found = []
    for heads, rows, keys in ((64, 1, 127), (32, 3, 129), (64, 67, place.pick(8191, 257)), (32, 129, 1)):
        row = torch.arange(rows, device=place.device)
        ends = keys - rows + 1 + row if keys >= rows else torch.ones_like(row)
        found.append(_compare(ragged(place, rows, heads, keys, rows), torch.zeros_like(row), ends))
    return worst(found)


def _nothing_valid(place: Place) -> Outcome:
    rows, keys = 70, place.pick(5000, 300)
    inputs = ragged(place, rows, 64, keys)
    row = torch.arange(rows, device=place.device)
    starts = row * 11 - 20
    ends = torch.where(row % 3 == 0, starts, torch.where(row % 3 == 1, keys + 50, row - 5))
    everything_empty = _compare(inputs, row * 3, row * 3)
    return worst((_compare(inputs, starts, ends), everything_empty, _compare(inputs, starts, ends, 129)))


def _far_keys(place: Place) -> Outcome:
    """Keys whose bytes lie past 2^31, and logits whose elements do."""
    keys = place.pick(2**24 + 777, 600)
    rows = place.pick(130, 3)
    near = 500
    q, (k_near, scale_near), weights = ragged(place, rows, 64, near)
    k = torch.zeros((keys, 128), dtype=torch.uint8, device=place.device).view(torch.float8_e4m3fn)
    scale = torch.ones(keys, device=place.device)
    k.view(torch.uint8)[-near:] = k_near.view(torch.uint8)
    scale[-near:] = scale_near
    row = torch.arange(rows, device=place.device)
    starts = (keys - near + row % 7).int()
    ends = (keys - row % 5).int()
    got = indexer.fp8_mqa_logits(q, (k, scale), weights, starts, ends)
    first = (keys - near) // 4 * 4
    wanted = indexer.naive_fp8_mqa_logits(
        q, (k[first:].clone(), scale[first:].clone()), weights, starts - first, ends - first
    )
    outside = [bool((got[i, :first] == -_INF).all()) for i in sorted({0, rows // 2, rows - 1})]
    return worst(
        (judge(got[:, first:], wanted), require(all(outside), "-inf before each row's keys", "something else there"))
    )


def _every_code(place: Place) -> Outcome:
    """Each of the 254 finite codes as a key against each as a query."""
    every = torch.arange(256, device=place.device).to(torch.uint8)
    every[(every & 0x7F) == 0x7F] = 0
    q = torch.zeros((256, 32, 128), dtype=torch.uint8, device=place.device)
    k = torch.zeros((256, 128), dtype=torch.uint8, device=place.device)
    q[:, 0, 5] = every
    q[:, 1, 5] = every ^ 0x80
    k[:, 5] = every
    weights = torch.ones((256, 32), device=place.device)
    weights[:, 1] = -0.5
    scale = torch.ones(256, device=place.device)
    q, k = q.view(torch.float8_e4m3fn), k.view(torch.float8_e4m3fn)
    starts = torch.zeros(256, dtype=torch.int32, device=place.device)
    got = indexer.fp8_mqa_logits(q, (k, scale), weights, starts, starts + 256)
    # One product for each head: exact in fp32, so that no small code hides beside a large one.
    return equal("logits", got.double(), indexer.naive_fp8_mqa_logits(q, (k, scale), weights, starts, starts + 256))


def _chunked(place: Place) -> Outcome:
    """The chunked op against the two ops it joins, and against the reference."""
    rows, keys, k = place.pick(300, 12), place.pick(16_387, 260), place.pick(2048, 40)
    q, kv, weights = ragged(place, rows, 64, keys)
    row = torch.arange(rows, device=place.device)
    starts, ends = (row % 5).int(), (keys - rows + row).int()
    whole = indexer.topk_indices(indexer.fp8_mqa_logits(q, kv, weights, starts, ends), starts, ends, k)
    found = []
    for budget in (1, place.pick(2**22, 20_000), 2**28):
        part = slice(0, 8) if budget == 1 else slice(0, rows)
        got = indexer.indexer_topk(q[part], kv, weights[part], starts[part], ends[part], k, budget_bytes=budget)
        wrong = int((got != whole[part]).sum())
        found.append(require(wrong == 0, f"the unchunked selection (budget {budget})", f"{wrong} indices differ"))
    return worst(found)


CASES = (
    Case(
        "two requests, starts above 0, both widths",
        "indexer_logits",
        "logits of another request's keys",
        _two_requests,
        gib=3,
    ),
    Case("tails that no tile divides", "indexer_logits", "a last tile that is cut or read past", _tails),
    Case("rows with nothing valid, bounds outside", "indexer_logits", "elements that are not cleaned", _nothing_valid),
    Case("every e4m3 code against every code", "indexer_logits", "codes decoded wrongly, relu's sign", _every_code),
    Case("chunked and unchunked", "indexer_topk", "a chunk that sees another chunk's logits", _chunked, gib=2),
)

FAR_CASES = (Case("keys and logits past 2^31", "indexer_logits", "offsets in 32 bits", _far_keys, gib=18),)
