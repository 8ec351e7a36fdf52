"""Cases of the product before mHC's norm: prefill chunks, and decode batches that meet a new matrix in every call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from dsa_kernels.bench.case import INVARIANT, Case, Peer, named
from dsa_kernels.bench.gate import require
from dsa_kernels.bench.inputs import rotations, spaced
from dsa_kernels.bench.work import Work
from dsa_kernels.mhc import interface as mhc
from dsa_kernels.mhc.config import COLUMNS
from dsa_kernels.mhc.naive import naive_hc_prenorm

#: Of the norm of the result; single elements have the bound of the contract.
LIMIT = 2.0**-15
CHECKED = 64
#: Matrices of a model: two a layer, of which an L2 holds few.
MOST_MATRICES = 128


def prenorm_work(tokens: int, k: int, splits: int) -> Work:
    """Tokens and matrix once, the splits' results once; FLOP of the product alone, without padding."""
    return Work(
        float(tokens * k * 2 + COLUMNS * k * 4 + splits * tokens * (COLUMNS + 1) * 4), 2.0 * tokens * k * COLUMNS
    )


def prenorm_case(
    tokens: int,
    k: int,
    splits: int | None,
    shape: dict[str, int | str],
    cache_bytes: int = 0,
    device: torch.device | str = "cuda",
) -> Case:
    """`hc_prenorm_gemm`; without `splits` as many as fill the device. Gate: products and squares of some tokens.

    Peers are PyTorch (x widened, one product in tf32 or fp32 as torch is set, and the squares) and the op itself with
    `batch_invariant`.
    """
    x = torch.randn(tokens, k, device=device, dtype=torch.bfloat16)
    splits = splits or mhc.hc_prenorm_splits(tokens, k, x.device)
    matrices = [
        torch.randn(COLUMNS, k, device=device) / k**0.5
        for _ in range(rotations(cache_bytes, tokens * k * 2 + COLUMNS * k * 4, MOST_MATRICES))
    ]
    out = torch.empty(splits, tokens, COLUMNS, device=device)
    sqrsum = torch.empty(splits, tokens, device=device)
    op = "mHC product"

    def run(fn: torch.Tensor, batch_invariant: bool = False) -> None:
        mhc.hc_prenorm_gemm(x, fn, out, sqrsum, splits, batch_invariant)

    def by_torch(fn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wide = x.float()
        return wide @ fn.T, wide.square().sum(-1)

    def judge(found: tuple[torch.Tensor, torch.Tensor]) -> float:
        some = spaced(tokens, CHECKED)
        wanted, squares = naive_hc_prenorm(x[some], matrices[0])
        require(f"{named(op, shape)}: squares", found[1][some], squares, LIMIT)
        return require(named(op, shape), found[0][some], wanted, LIMIT)

    def check(batch_invariant: bool = False) -> float:
        run(matrices[0], batch_invariant)
        return judge((out.sum(0), sqrsum.sum(0)))

    calls: list[Callable[[], object]] = [partial(run, fn) for fn in matrices]
    peers: dict[str, Peer | str] = {
        "PyTorch": Peer([partial(by_torch, fn) for fn in matrices], lambda: judge(by_torch(matrices[0]))),
        INVARIANT: Peer([partial(run, fn, True) for fn in matrices], lambda: check(True)),
    }
    return Case(op, shape | {"splits": splits}, prenorm_work(tokens, k, splits), LIMIT, check, calls, peers)
