"""How many tokens a program of mHC's product takes, and which kernel serves: one table, first match wins.

Launches, warm-up, ahead-of-time builds and docs/explanation/kernel-routes.md read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TileConfig:
    """How one program is built.

    Attributes:
        rows: tokens of a tile.
        step: columns of x and fn that are taken at once.
        num_warps: warps of a program.
        stages: steps that are under way or computed at once.
        maxnreg: most registers of a thread; left to itself ptxas spills some bytes to stay at 128.
        kernel: "triton" (kernels.py) or "mma" (gluon_prenorm.py).
    """

    rows: int
    step: int
    num_warps: int
    stages: int
    maxnreg: int
    kernel: str


@dataclass(frozen=True)
class Route:
    """One row of the table.

    Attributes:
        rows: tokens of a tile.
        least_tokens: fewest tokens that it is for.
        stages: as in `TileConfig`: two programs then fit the 163 KiB of a multiprocessor, one fits 99 KiB.
        maxnreg: as in `TileConfig`.
        fills: whether tiles times splits must fill most multiprocessors.
        reason: why.
    """

    rows: int
    least_tokens: int
    stages: int
    maxnreg: int
    fills: bool
    reason: str


ROUTES = (
    Route(
        rows=64,
        least_tokens=33,
        stages=2,
        maxnreg=255,
        fills=True,
        reason="Each program reads all of its split of fn: the more tokens share it, the less comes from L2.",
    ),
    Route(
        rows=32,
        least_tokens=17,
        stages=3,
        maxnreg=168,
        fills=True,
        reason="Tiles of 64 tokens would leave multiprocessors idle.",
    ),
    Route(
        rows=16,
        least_tokens=1,
        stages=4,
        maxnreg=128,
        fills=False,
        reason="Bound by reading fn, or by how few programs there are.",
    ),
)

#: The row that serves any number of tokens alike, where results may not depend on it.
INVARIANT_ROUTE = ROUTES[-1]

#: Share of the multiprocessors that count as most.
_FILLED = 0.75


def tile_of(route: Route, gluon: bool) -> TileConfig:
    """The tile of a row of the table.

    Args:
        route: the row.
        gluon: whether Gluon kernels can be compiled (`gluon_support.USABLE`).
    """
    if gluon:
        return TileConfig(route.rows, 128, 4, route.stages, route.maxnreg, "mma")
    return TileConfig(route.rows, 64, 4, 4, route.maxnreg, "triton")


def find_route(tokens: int, n_splits: int, multiprocessors: int) -> Route:
    """The row that serves so many tokens and splits."""
    return next(
        route
        for route in ROUTES
        if tokens >= route.least_tokens
        and (not route.fills or -(-tokens // route.rows) * n_splits >= _FILLED * multiprocessors)
    )
