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
        num_stages: depth of Triton's pipeline; Gluon's kernel keeps one step ahead.
        kernel: "triton" (kernels.py) or "mma" (gluon_prenorm.py).
    """

    rows: int
    step: int
    num_warps: int
    num_stages: int
    kernel: str


@dataclass(frozen=True)
class Route:
    """One row of the table.

    Attributes:
        rows: tokens of a tile.
        least_tokens: fewest tokens that it is for.
        fills: whether tiles times splits must fill most multiprocessors.
        reason: why.
    """

    rows: int
    least_tokens: int
    fills: bool
    reason: str


ROUTES = (
    Route(64, 33, True, "Each program reads all of its split of fn: the more tokens share it, the less comes from L2."),
    Route(32, 17, True, "Tiles of 64 tokens would leave multiprocessors idle."),
    Route(16, 1, False, "Bound by reading fn, or by how few programs there are."),
)

#: Share of the multiprocessors that count as most.
_FILLED = 0.75


def tile_of(route: Route, gluon: bool) -> TileConfig:
    """The tile of a row of the table.

    Args:
        route: the row.
        gluon: whether Gluon kernels can be compiled (`gluon_support.USABLE`).
    """
    if gluon:
        return TileConfig(route.rows, 256, 8, 1, "mma")
    return TileConfig(route.rows, 64, 4, 4, "triton")


def find_route(tokens: int, n_splits: int, multiprocessors: int) -> Route:
    """The row that serves so many tokens and splits."""
    return next(
        route
        for route in ROUTES
        if tokens >= route.least_tokens
        and (not route.fills or -(-tokens // route.rows) * n_splits >= _FILLED * multiprocessors)
    )
