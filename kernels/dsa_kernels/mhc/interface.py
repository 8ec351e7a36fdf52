"""The pre-norm product of DeepSeek-V4's manifold-constrained hyper-connections (mHC)."""

from __future__ import annotations

from typing import Any

import torch

from dsa_kernels import gluon_support
from dsa_kernels.errors import expect, expect_aligned_rows, expect_same_device, expect_tensor
from dsa_kernels.mhc.config import (
    INVARIANT_SPLIT,
    JOIN_ROWS,
    JOIN_WARPS,
    LEAST_SPLIT,
    LONG_SPLIT,
    SPLIT_ROWS,
    TILE_COLUMNS,
    UNIT,
)
from dsa_kernels.mhc.dispatch import INVARIANT_ROUTE, Route, find_route, tile_of
from dsa_kernels.mhc.kernels import join_kernel
from dsa_kernels.targets import device_facts


def hc_prenorm_gemm(
    x: torch.Tensor,
    fn: torch.Tensor,
    out: torch.Tensor,
    sqrsum: torch.Tensor,
    n_splits: int,
    batch_invariant: bool = False,
) -> None:
    """Multiply tokens by mHC's matrix, and sum up their squares: split over k, the splits left for the caller to add.

    `out.sum(0)` is x times fn transposed, `sqrsum.sum(0)` the sum of each token's squares. Every split is written
    whole; where k has fewer steps than there are splits, the last ones are zeros.

    Against fp64 an element of `out.sum(0)` is off by at most 2^-14 of the sum of its products' magnitudes, and one of
    `sqrsum.sum(0)` by at most 2^-16 of it, for k up to 32,768: fn enters as two bf16 numbers, which leaves out 2^-16 of
    it (tf32 leaves out 2^-11); the rest is how fp32 sums up. Where x has a NaN or an infinity, that token alone is
    spoiled.

    Args:
        x: [m, k] bf16, contiguous; k a multiple of 8.
        fn: [n, k] fp32, contiguous, finite; n at most 32, 24 in DeepSeek-V4.
        out: [n_splits, m, n] fp32, contiguous, written in place.
        sqrsum: [n_splits, m] fp32, contiguous, written in place.
        n_splits: parts of k, at least 1. Few tokens need many: `hc_prenorm_splits` says how many fill the device. With
            fewer a long split is cut once more, and a second kernel adds up its parts in memory of the op's own.
        batch_invariant: what a token's splits add up to is the same bits whatever other tokens the call has, whatever
            n_splits is and on however many multiprocessors it runs, for the same k, n, capability and Triton: split 0
            holds all of it, the others zeros.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `tf32_hc_prenorm_gemm` of vLLM (vllm/utils/deep_gemm.py) and its callers in model_executor/kernels/mhc.
    """
    expect_tensor("x", x, ["m", "k"], [torch.bfloat16])
    tokens, k = x.shape
    expect(k > 0 and k % UNIT == 0, "x", f"k of {k}", f"a multiple of {UNIT}")
    expect_tensor("fn", fn, ["n", k], [torch.float32])
    columns = fn.shape[0]
    expect(0 < columns <= TILE_COLUMNS, "fn", f"{columns} rows", f"1 to {TILE_COLUMNS}")
    expect(n_splits >= 1, "n_splits", n_splits, "at least 1")
    expect_tensor("out", out, [n_splits, tokens, columns], [torch.float32])
    expect_tensor("sqrsum", sqrsum, [n_splits, tokens], [torch.float32])
    for name, tensor in (("x", x), ("fn", fn), ("out", out), ("sqrsum", sqrsum)):
        expect(tensor.is_contiguous(), name, f"strides {tensor.stride()}", "a contiguous tensor")
    expect_same_device("x", x, fn=fn, out=out, sqrsum=sqrsum)
    if not tokens:
        return
    expect_aligned_rows("x", x)
    expect_aligned_rows("fn", fn)
    if batch_invariant:
        out[1:].zero_()
        sqrsum[1:].zero_()
        _launch_in_parts(x, fn, out[:1], sqrsum[:1], INVARIANT_ROUTE, max(1, k // INVARIANT_SPLIT))
        return
    parts = _parts(tokens, k, n_splits, x.device)
    route = find_route(tokens, n_splits * parts, device_facts(x.device)[1])
    _launch_in_parts(x, fn, out, sqrsum, route, parts)


def _launch_in_parts(
    x: torch.Tensor, fn: torch.Tensor, out: torch.Tensor, sqrsum: torch.Tensor, route: Route, parts: int
) -> None:
    """Write every split of `out` and `sqrsum`, each as the sum of `parts` in their order."""
    if parts == 1:
        _launch(x, fn, out, sqrsum, route)
        return
    n_splits, tokens, columns = out.shape
    part_out = torch.empty((n_splits * parts, tokens, columns), dtype=torch.float32, device=x.device)
    part_sums = torch.empty((n_splits * parts, tokens), dtype=torch.float32, device=x.device)
    _launch(x, fn, part_out, part_sums, route)
    join_kernel[(-(-tokens // JOIN_ROWS), n_splits)](
        part_out,
        part_sums,
        out,
        sqrsum,
        tokens,
        columns,
        parts,
        ROWS=JOIN_ROWS,
        COLUMNS=TILE_COLUMNS,
        num_warps=JOIN_WARPS,
    )


def _launch(x: torch.Tensor, fn: torch.Tensor, out: torch.Tensor, sqrsum: torch.Tensor, route: Route) -> None:
    (tokens, k), n_splits = x.shape, out.shape[0]
    config = tile_of(route, gluon_support.USABLE)
    steps = -(-k // config.step)
    kernel_of(config.kernel)[(-(-tokens // config.rows), n_splits)](
        x,
        fn,
        out,
        sqrsum,
        tokens,
        k // UNIT,
        fn.shape[0],
        -(-steps // n_splits),
        ROWS=config.rows,
        COLUMNS=TILE_COLUMNS,
        STEP=config.step,
        STAGES=config.stages,
        num_warps=config.num_warps,
        maxnreg=config.maxnreg,
    )


def _parts(tokens: int, k: int, n_splits: int, device: torch.device) -> int:
    """Into how many parts each split is cut: more than one where it is long and the device would be idle."""
    if k < LONG_SPLIT * n_splits:
        return 1
    return max(1, hc_prenorm_splits(tokens, k, device) // n_splits)


def hc_prenorm_splits(tokens: int, k: int, device: torch.device) -> int:
    """How many splits of `hc_prenorm_gemm` fill a device with so many tokens: 1 where the tokens alone do.

    Args:
        tokens: m.
        k: columns of x.
        device: where it runs.
    """
    tiles = -(-tokens // SPLIT_ROWS)
    return max(1, min(device_facts(device)[1] // max(1, tiles), k // LEAST_SPLIT))


def kernel_of(name: str) -> Any:
    """The kernel of a tile: what `TileConfig.kernel` names."""
    if name == "mma":
        from dsa_kernels.mhc.gluon_prenorm import prenorm_mma_kernel

        return prenorm_mma_kernel
    from dsa_kernels.mhc.kernels import prenorm_kernel

    return prenorm_kernel
