"""Self-test of the wheel's own top-k ops against a full sort. Ties and order are open; everything else is not.

Each op is asked only what vLLM asks of it (model_executor/layers/sparse_attn_indexer.py; later indexer_topk.py): fp32
logits whose rows are a multiple of 4 apart, contiguous int32 lengths of 1 or more, k 2048, a workspace of 1 MiB (whose
content is free: persistent_topk clears its part itself, cooperative_topk writes before it reads), values beyond the
length undefined. Both write -1 past the length. cooperative_topk gets at most 32 rows; where it serves those,
persistent_topk gets more than 32.

Known faults that fail here: vllm-project/vllm #51782, #52149, #55314 (candidates of one histogram bin beyond a buffer
are dropped, in both ops), #49139 (a long row after a long and a short one, persistent_topk).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dsa_kernels.selftest import wheel
from dsa_kernels.selftest.case import Case, NotHere, Outcome, Place
from dsa_kernels.selftest.compare import require, worst
from dsa_kernels.selftest.topk_rows import FINITE, noise

#: Called as (logits, starts or None, lengths, k): [rows, k] indices relative to the starts.
Select = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor, int], torch.Tensor]

K = 2048


def judge_selection(
    got: torch.Tensor, logits: torch.Tensor, starts: torch.Tensor | None, lengths: torch.Tensor, k: int
) -> Outcome:
    """Whether each row holds min(k, length) distinct positions of the row whose values are the largest, and -1 else.

    Args:
        got: [M, k] int32, positions relative to starts, in any order.
        logits: [M, N] fp32 without NaN.
        starts: [M] int32, or None for 0.
        lengths: [M] int32 of 0 or more; starts + lengths within N.
        k: results of a row.
    """
    width = logits.shape[1]
    first = torch.zeros_like(lengths) if starts is None else starts
    position = torch.arange(width, device=logits.device)
    inside = (position >= first[:, None]) & (position < (first + lengths)[:, None])
    wanted = logits.masked_fill(~inside, float("-inf")).topk(min(k, width), dim=1).values
    number = lengths.clamp_max(k)  # [M]
    ordered = got.sort(dim=1, descending=True).values
    taken = ordered >= 0
    outside = (ordered >= lengths[:, None]).sum(dim=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & taken[:, 1:]).sum(dim=1)
    columns = (ordered.clamp_min(0) + first[:, None]).clamp_max(width - 1).long()
    values = logits.gather(1, columns).masked_fill(~taken, float("-inf"))
    least = wanted.gather(1, (number[:, None] - 1).clamp_min(0).long())  # [M, 1], the smallest that belongs
    larger = (wanted > least).sum(dim=1)
    ties = torch.minimum((values == least).sum(dim=1), number - larger)  # of which any will do
    missed = number - (values > least).sum(dim=1) - ties
    wrong = outside + twice + missed.clamp_min(0) + (taken.sum(dim=1) != number)
    if not bool(wrong.any()):
        return Outcome(True, 0.0, 0.0)
    row = int(wrong.argmax())
    return Outcome(
        False,
        float(wrong.sum()),
        0.0,
        f"the {int(number[row])} largest of {int(lengths[row])} values (row {row})",
        f"{int(taken[row].sum())} selected, {max(int(missed[row]), 0)} of the largest missed, {int(outside[row])} "
        f"outside the row, {int(twice[row])} twice; {int((wrong > 0).sum())} of {len(lengths)} rows wrong",
    )


def _empty(logits: torch.Tensor, k: int) -> torch.Tensor:
    # vLLM clears the buffer before.
    return torch.full((logits.shape[0], k), -1, dtype=torch.int32, device=logits.device)


def _prefill(logits: torch.Tensor, starts: torch.Tensor | None, lengths: torch.Tensor, k: int) -> torch.Tensor:
    call: Any = wheel.op("top_k_per_row_prefill")
    out = _empty(logits, k)
    first = torch.zeros_like(lengths) if starts is None else starts
    call(logits, first, first + lengths, out, logits.shape[0], logits.stride(0), logits.stride(1), k)
    return out


def _decode(logits: torch.Tensor, starts: torch.Tensor | None, lengths: torch.Tensor, k: int) -> torch.Tensor:
    del starts
    call: Any = wheel.op("top_k_per_row_decode")
    out = _empty(logits, k)
    call(logits, 1, lengths, out, logits.shape[0], logits.stride(0), logits.stride(1), k)
    return out


def _persistent(logits: torch.Tensor, starts: torch.Tensor | None, lengths: torch.Tensor, k: int) -> torch.Tensor:
    del starts
    call: Any = wheel.op("persistent_topk")
    rows = logits.shape[0]
    copies = -(-wheel.persistent_rows(logits.device) // rows)
    batch, every_length = logits.repeat(copies, 1), lengths.repeat(copies)
    out = _empty(batch, k)
    workspace = torch.zeros(wheel.WORKSPACE_BYTES, dtype=torch.uint8, device=logits.device)
    # Releases differ: some pass the width of the logits, some the longest context. Both have to be right.
    for longest in (int(lengths.max()), logits.shape[1]):
        out.fill_(-1)
        call(batch, every_length, out, workspace, k, longest)
        for found in out.split(rows):
            if not judge_selection(found, logits, None, lengths, k).passed:
                return found
    return out[:rows]


def _cooperative(logits: torch.Tensor, starts: torch.Tensor | None, lengths: torch.Tensor, k: int) -> torch.Tensor:
    del starts
    if not wheel.has_clusters(logits.device):
        raise NotHere("vLLM calls this op on 9.0 and 10.x only")
    call: Any = wheel.op("cooperative_topk")
    found = []
    for part in range(0, logits.shape[0], wheel.COOPERATIVE_ROWS):
        rows = slice(part, part + wheel.COOPERATIVE_ROWS)
        out = _empty(logits[rows], k)
        workspace = torch.zeros(wheel.WORKSPACE_BYTES, dtype=torch.uint8, device=logits.device)
        call(logits[rows], lengths[rows], out, workspace, k, int(lengths.max()))
        found.append(out)
    return torch.cat(found)


OPS: dict[str, Select] = {
    "top_k_per_row_prefill": _prefill,
    "top_k_per_row_decode": _decode,
    "persistent_topk": _persistent,
    "cooperative_topk": _cooperative,
}


def _run(select: Select, logits: torch.Tensor, starts: torch.Tensor | None, lengths: torch.Tensor, k: int) -> Outcome:
    return judge_selection(select(logits, starts, lengths, k), logits, starts, lengths, k)


def contexts(place: Place, select: Select, k: int = K) -> Outcome:
    """Contexts of 1 to 2k + 1, in rows as wide as needed and in much wider ones."""
    lengths = [1, 2, k // 2, k - 1, k, k + 1, k + 2, k + k // 3, 3 * k // 2, 2 * k - 1, 2 * k, 2 * k + 1]
    found = []
    for name in ("random", "narrow range", "one bit apart"):
        for width in (2 * k + 4, 16 * k):
            logits = FINITE[name](place, len(lengths), width)
            found.append(_run(select, logits, None, place.int32(lengths), k))
    return worst(found)


def values(place: Place, select: Select, k: int = K) -> Outcome:
    """Every kind of values, in long rows."""
    width = 64 * k
    lengths = place.int32([width, width - 1031, 5 * k + 1])
    return worst(_run(select, make(place, 3, width), None, lengths, k) for make in FINITE.values())


def long_rows(place: Place, select: Select, k: int = K) -> Outcome:
    """Rows of a million, of 300,003, and the two in one batch with short ones."""
    width = 512 * k
    lengths = place.int32([width, 300_003 * k // K, k + 1, 9, width - 1])
    return worst(_run(select, FINITE[name](place, 5, width), None, lengths, k) for name in ("random", "crowded bin"))


def many_rows(place: Place, select: Select, k: int = K) -> Outcome:
    """More rows than multiprocessors, each of another length."""
    width = 10 * k
    lengths = (torch.arange(300, device=place.device) * 997 % width + 1).int()
    return _run(select, noise(place, 300, width), None, lengths, k)


def row_starts(place: Place, select: Select, k: int = K) -> Outcome:
    """Rows that begin at odd places, between larger values that are not theirs."""
    width = 10 * k
    first = place.int32([0, 1, 3, 17, k, width - 2 * k - 5, 5])
    lengths = place.int32([width, k + 1, 2 * k - 1, 5 * k + 3, k, 2 * k + 5, 7])
    logits = noise(place, 7, width)
    column = torch.arange(width, device=place.device)
    mine = (column >= first[:, None]) & (column < (first + lengths)[:, None])
    return _run(select, torch.where(mine, logits, 100.0), first, lengths, k)


def _draft_rows(place: Place) -> Outcome:
    """next_n 4 with one length per request: row t of a request sees length - 3 + t."""
    call: Any = wheel.op("top_k_per_row_decode")
    requests = place.int32([K + 3, 2 * K, 16_001, 9])
    logits = noise(place, 16, 8 * K)
    out = _empty(logits, K)
    call(logits, 4, requests, out, 16, logits.stride(0), logits.stride(1), K)
    lengths = (requests[:, None] + place.int32([-3, -2, -1, 0])).reshape(-1)
    return judge_selection(out, logits, None, lengths, K)


def _loads(place: Place) -> Outcome:
    del place
    return require(bool(wheel.load()), "an extension", "none")


_KINDS: dict[str, tuple[str, Callable[[Place, Select], Outcome]]] = {
    "context from 1 to 2k + 1": ("a context between k and 2k", contexts),
    "narrow, equal, crowded values": ("candidates dropped past a buffer", values),
    "rows of a million": ("long-row paths", long_rows),
    "300 rows of all lengths": ("rows that meet each other's scratch", many_rows),
}


def _bind(run: Callable[[Place, Select], Outcome], select: Select) -> Callable[[Place], Outcome]:
    return lambda place: run(place, select)


CASES = (
    Case("the wheel's extension loads", "wheel_topk", "a library that does not fit this torch", _loads),
    *(
        Case(f"{name}: {kind}", "wheel_topk", provokes, _bind(run, select))
        for name, select in OPS.items()
        for kind, (provokes, run) in _KINDS.items()
    ),
    Case(
        "top_k_per_row_prefill: starts above 0",
        "wheel_topk",
        "values outside a row's bounds",
        _bind(row_starts, _prefill),
    ),
    Case("top_k_per_row_decode: next_n 4", "wheel_topk", "row ends of draft tokens", _draft_rows),
)
