"""Which attention kernel serves which target, head count and cache format: a table, first match wins.

Launches, ahead-of-time variants, warm-up, the self-test and docs/explanation/kernel-routes.md all read this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from dsa_kernels.targets import TargetClass, converts_fp8, target_class

Format = Literal["two-byte", "fp8_ds_mla"]

#: Query heads of a rank that the table is asked about: DeepSeek-V4-Pro's 128 on one GPU are the most.
MAX_HEADS = 128


@dataclass(frozen=True)
class TileConfig:
    """How one program of an attention kernel is built.

    Attributes:
        block_h: heads of a program (a multiple of 16, the smallest MMA).
        block_n: gathered rows of a step.
        num_warps: warps of a program.
        num_stages: depth of the pipeline: steps whose rows are in flight or in use.
        programs_per_sm: programs that one multiprocessor should be given before a selection is left whole.
        kernel: "triton" (kernels.py), or the Gluon kernel of gluon_<name>.py: "mma_h16", "mma_h64", "wgmma_h64".
        convert: whether Gluon kernels decode e4m3 codes by the conversion of 8.9 and later, or by integer operations.
    """

    block_h: int
    block_n: int
    num_warps: int
    num_stages: int
    programs_per_sm: int
    kernel: str = "triton"
    convert: bool = False


@dataclass(frozen=True)
class Route:
    """One row of the table: what it takes, and the tile that it gives.

    Attributes:
        targets: classes of targets (`dsa_kernels.targets.target_class`).
        most_heads: most query heads of a rank.
        formats: cache formats.
        tile: how a program is built; `convert` is filled in by the target.
        reason: why this tile there.
    """

    targets: tuple[TargetClass, ...]
    most_heads: int
    formats: tuple[Format, ...]
    tile: TileConfig
    reason: str

    @property
    def needs_gluon(self) -> bool:
        """Whether the kernel is written in Gluon, which old Tritons and Triton's interpreter lack."""
        return self.tile.kernel != "triton"


_EVERY: tuple[TargetClass, ...] = ("mma", "mma-small", "wgmma", "mma-roomy")
_NOT_SMALL: tuple[TargetClass, ...] = ("mma", "wgmma", "mma-roomy")
_BOTH: tuple[Format, ...] = ("two-byte", "fp8_ds_mla")
_PLAIN: tuple[Format, ...] = ("two-byte",)
_FP8: tuple[Format, ...] = ("fp8_ds_mla",)


def _tile(kernel: str, heads: int, rows: int, warps: int, stages: int, per_sm: int) -> TileConfig:
    return TileConfig(
        block_h=heads, block_n=rows, num_warps=warps, num_stages=stages, programs_per_sm=per_sm, kernel=kernel
    )


ROUTES: tuple[Route, ...] = (
    Route(
        ("mma-small",),
        MAX_HEADS,
        _BOTH,
        _tile("mma_h16", heads=16, rows=16, warps=4, stages=2, per_sm=2),
        "A tile of 64 heads does not fit 99 KiB; programs of 16 heads that gather the same rows are still cheaper.",
    ),
    Route(
        _NOT_SMALL,
        32,
        _FP8,
        _tile("mma_h16", heads=16, rows=32, warps=4, stages=2, per_sm=2),
        "Bound by gathering. 32 rows keep two steps of 656-byte tokens in flight.",
    ),
    Route(
        ("mma", "mma-roomy"),
        32,
        _PLAIN,
        _tile("mma_h16", heads=16, rows=16, warps=4, stages=2, per_sm=3),
        "Bound by gathering. Up to 32 heads a tile of 64 would be half empty.",
    ),
    Route(
        ("wgmma",),
        16,
        _PLAIN,
        _tile("mma_h16", heads=16, rows=16, warps=4, stages=2, per_sm=3),
        "Bound by gathering. From 17 heads on wgmma is faster even half empty.",
    ),
    Route(
        ("wgmma",),
        MAX_HEADS,
        _FP8,
        _tile("wgmma_h64", heads=64, rows=32, warps=8, stages=2, per_sm=1),
        "Bound by the matrix units. With 32 rows there is room for two decoded tiles.",
    ),
    Route(
        ("wgmma",),
        MAX_HEADS,
        _PLAIN,
        _tile("wgmma_h64", heads=64, rows=64, warps=8, stages=2, per_sm=1),
        "Bound by the matrix units: 64 heads share each gathered row.",
    ),
    Route(
        ("mma",),
        MAX_HEADS,
        _BOTH,
        _tile("mma_h64", heads=64, rows=32, warps=8, stages=2, per_sm=1),
        "Bound by the matrix units: 64 heads share each gathered row.",
    ),
    Route(
        ("mma-small",),
        16,
        _FP8,
        _tile("triton", heads=16, rows=32, warps=8, stages=2, per_sm=1),
        "This Triton has no Gluon; 99 KiB hold 32 decoded rows.",
    ),
    Route(
        _NOT_SMALL,
        16,
        _FP8,
        _tile("triton", heads=16, rows=64, warps=8, stages=2, per_sm=1),
        "This Triton has no Gluon.",
    ),
    Route(
        ("mma-small",),
        16,
        _PLAIN,
        _tile("triton", heads=16, rows=16, warps=4, stages=2, per_sm=2),
        "This Triton has no Gluon; 99 KiB hold two programs of 16 rows.",
    ),
    Route(
        ("mma",),
        16,
        _PLAIN,
        _tile("triton", heads=16, rows=32, warps=4, stages=2, per_sm=2),
        "This Triton has no Gluon; 163 KiB hold two programs of 32 rows.",
    ),
    Route(
        ("wgmma", "mma-roomy"),
        16,
        _PLAIN,
        _tile("triton", heads=16, rows=64, warps=4, stages=2, per_sm=2),
        "This Triton has no Gluon; 227 KiB hold two programs of 64 rows.",
    ),
    Route(
        _EVERY,
        MAX_HEADS,
        _FP8,
        _tile("triton", heads=32, rows=32, warps=8, stages=1, per_sm=1),
        "No Gluon kernel serves it there. A second stage of decoded rows would spill.",
    ),
    Route(
        ("mma-small",),
        MAX_HEADS,
        _PLAIN,
        _tile("triton", heads=32, rows=32, warps=8, stages=2, per_sm=1),
        "This Triton has no Gluon; 99 KiB hold 32 rows twice.",
    ),
    Route(
        _NOT_SMALL,
        MAX_HEADS,
        _PLAIN,
        _tile("triton", heads=32, rows=64, warps=8, stages=2, per_sm=1),
        "No Gluon kernel serves it there.",
    ),
)


def find_route(capability: int, num_heads: int, fp8: bool, gluon: bool) -> Route:
    """The first route that takes a target, a head count and a cache format; there is one for every combination.

    Args:
        capability: of the target, times ten.
        num_heads: query heads of this rank; more than `MAX_HEADS` are served as `MAX_HEADS` are.
        fp8: whether rows are fp8_ds_mla tokens.
        gluon: whether Gluon kernels can be compiled (`gluon_support.USABLE`).
    """
    kind = target_class(capability)
    kv_format: Format = "fp8_ds_mla" if fp8 else "two-byte"
    heads = min(num_heads, MAX_HEADS)
    return next(
        route
        for route in ROUTES
        if kind in route.targets
        and heads <= route.most_heads
        and kv_format in route.formats
        and (gluon or not route.needs_gluon)
    )


def tile_of(route: Route, capability: int, fp8: bool) -> TileConfig:
    """A route's tile on a target: Gluon kernels decode fp8 rows by the target's own conversion where it has one."""
    return replace(route.tile, convert=route.needs_gluon and fp8 and converts_fp8(capability))


@lru_cache(maxsize=1024)
def tile_config(capability: int, num_heads: int, fp8: bool, gluon: bool) -> TileConfig:
    """The tile for a target, a head count, a cache format, and a Triton with or without Gluon; see `find_route`."""
    return tile_of(find_route(capability, num_heads, fp8, gluon), capability, fp8)


def routes_on(capability: int, gluon: bool) -> Iterator[tuple[Route, Format, range]]:
    """Every (route, cache format, head counts) that some rank reaches on a target, in the order of head counts."""
    for kv_format in _BOTH:
        first = 1
        while first <= MAX_HEADS:
            route = find_route(capability, first, kv_format == "fp8_ds_mla", gluon)
            yield route, kv_format, range(first, route.most_heads + 1)
            first = route.most_heads + 1
