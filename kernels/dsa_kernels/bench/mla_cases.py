"""Cases of sparse MLA attention, decode and prefill, over bf16 or fp8_ds_mla rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dsa_kernels.bench.case import INVARIANT, Case, Peer, named
from dsa_kernels.bench.gate import GateError, require
from dsa_kernels.bench.inputs import random_selection, rotations, spaced
from dsa_kernels.bench.work import sparse_mla_work
from dsa_kernels.sparse_mla.config import FP8_TOKEN_BYTES
from dsa_kernels.sparse_mla.interface import sparse_mla_fwd, sparse_mla_with_kvcache
from dsa_kernels.sparse_mla.naive import naive_sparse_mla_with_kvcache

#: Rounding the output to bf16 alone gives 1.9e-3.
LIMIT = 4e-3
CHECKED_TOKENS = 8


@dataclass(frozen=True)
class MlaInputs:
    """What a case runs on.

    Attributes:
        q: [tokens, heads, d_qk] bf16.
        cache: [rows, 1, d_qk] bf16, or pages [pages, 64, 1, d_qk] bf16 or [pages, 64, 1, 656] uint8.
        selections: [tokens, 1, topk] int32 each, one for each rotation.
        out: [tokens, heads, 512] bf16, written by every call.
    """

    q: torch.Tensor
    cache: torch.Tensor
    selections: list[torch.Tensor]
    out: torch.Tensor

    @property
    def kv_format(self) -> str:
        """As `sparse_mla_with_kvcache` names it."""
        return "fp8_ds_mla" if self.cache.dtype == torch.uint8 else "bf16"

    @property
    def sm_scale(self) -> float:
        """Scale of the logits."""
        return float(self.q.shape[2] ** -0.5)

    def run(self, indices: torch.Tensor, batch_invariant: bool = False) -> torch.Tensor:
        """The op: over a flat cache or over pages."""
        given = self.q, self.cache, indices, self.sm_scale
        if self.cache.dim() == 3:
            return sparse_mla_fwd(*given, out=self.out, batch_invariant=batch_invariant)[0]
        return sparse_mla_with_kvcache(*given, kv_format=self.kv_format, out=self.out, batch_invariant=batch_invariant)[
            0
        ]

    def expected(self, tokens: list[int]) -> torch.Tensor:
        """The reference on some tokens of the first selection, fp64; only the rows they select are expanded."""
        picked = self.selections[0][tokens].long()  # [some, 1, topk]
        rows = self.cache.view(-1, 1, 1, self.cache.shape[-1])[picked.clamp(min=0).flatten()]
        order = torch.arange(picked.numel(), device=picked.device).view(picked.shape)
        order = torch.where(picked >= 0, order, -1).int()
        return naive_sparse_mla_with_kvcache(self.q[tokens], rows, order, self.sm_scale, kv_format=self.kv_format)[0]


def mla_inputs(
    cache: torch.Tensor,
    tokens: int,
    heads: int,
    topk: int,
    l2_bytes: int,
    span: int | None = None,
    next_n: int = 1,
    most_rotations: int = 64,
) -> MlaInputs:
    """Draw inputs over a cache.

    Args:
        cache: as in `MlaInputs`.
        tokens: query tokens.
        heads: heads of this rank.
        topk: rows that each token selects.
        l2_bytes: so many selections are drawn that a round over them touches four times as much.
        span: rows that each token selects from; None for the whole cache. With fewer rows than the cache, groups of
            `next_n` tokens belong to a request each, whose rows follow those of the one before, around the end.
        next_n: tokens of a request.
        most_rotations: at most so many selections.
    """
    device, fp8 = cache.device, cache.dtype == torch.uint8
    row_bytes = cache.shape[-1] * cache.element_size()
    rows = cache.numel() // cache.shape[-1]
    d_qk = 576 if fp8 else cache.shape[-1]
    span = min(span or rows, rows)
    bases = [token // next_n % max(1, rows // span) * span for token in range(tokens)]
    gathered = min(tokens * min(topk, span), rows) * row_bytes
    count = 1 if tokens * topk > rows else rotations(l2_bytes, gathered, most_rotations)
    q = torch.randn(tokens, heads, d_qk, device=device, dtype=torch.bfloat16)
    selections = [random_selection(tokens, topk, span, device, bases) for _ in range(count)]
    return MlaInputs(q, cache, selections, torch.empty(tokens, heads, 512, device=device, dtype=torch.bfloat16))


def mla_case(
    op: str, inputs: MlaInputs, shape: dict[str, int | str], reread: bool = False, batch_invariant: bool = False
) -> Case:
    """The case of an op name over inputs.

    Args:
        op: name of the op.
        inputs: from `mla_inputs`.
        shape: what the table says of the shape.
        reread: whether tokens select from the same rows, so that a whole cache is the most that has to be read.
        batch_invariant: whether the op with that promise is a peer.
    """
    tokens, heads, d_qk = inputs.q.shape
    selected = int((inputs.selections[0][0] >= 0).sum())
    row_bytes = FP8_TOKEN_BYTES if inputs.kv_format == "fp8_ds_mla" else 2 * d_qk
    rows = inputs.cache.numel() // inputs.cache.shape[-1] if reread else tokens * selected
    some = spaced(tokens, CHECKED_TOKENS)
    name = named(op, shape)

    def check(invariant: bool = False) -> float:
        inputs.out.fill_(float("nan"))
        error = require(name, inputs.run(inputs.selections[0], invariant)[some], inputs.expected(some), LIMIT)
        if not inputs.out.isfinite().all():
            raise GateError(f"{name}: output not written everywhere")
        return error

    calls = [(lambda indices=indices: inputs.run(indices)) for indices in inputs.selections]
    work = sparse_mla_work(tokens, heads, selected, rows, row_bytes, d_qk)
    case = Case(op, shape, work, LIMIT, check, calls)
    if batch_invariant:
        invariant = [(lambda indices=indices: inputs.run(indices, True)) for indices in inputs.selections]
        case.peers[INVARIANT] = Peer(invariant, lambda: check(True))
    return case
