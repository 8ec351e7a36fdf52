"""Which logits kernel serves which target and head count: two tables, first match wins.

Launches, ahead-of-time variants, the self-test and docs/explanation/kernel-routes.md all read these tables. The
selection and the fp8 ops have one kernel each on every target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from dsa_kernels.indexer.config import MAX_HEADS
from dsa_kernels.targets import TargetClass, has_small_shared_memory, target_class


@dataclass(frozen=True)
class LogitsConfig:
    """How one program of the ragged logits kernel is built.

    Attributes:
        block_n: keys of a program, decoded once and kept in registers.
        columns: columns of the dot: query rows of a step times padded heads.
        num_warps: warps of a program.
        num_stages: depth of the pipeline over query rows.
        row_block: query rows that pass over one tile of keys.
        kernel: "triton" (logits_kernels.py) or "mma" (gluon_ragged.py).
        maxnreg: most registers of a thread; None for what the target has.
    """

    block_n: int
    columns: int
    num_warps: int
    num_stages: int
    row_block: int
    kernel: str = "triton"
    maxnreg: int | None = None


@dataclass(frozen=True)
class PagedConfig:
    """How one program of the paged logits kernel is built.

    Attributes:
        block_n: keys of a tile, decoded once in registers for all query rows of the program.
        columns: columns of one dot.
        most_columns: columns of a program: what its queries take of shared memory is 256 bytes a column.
        num_warps: warps of a program.
        num_stages: depth of the pipeline over tiles; the page of a tile is read a stage before its keys.
    """

    block_n: int
    columns: int
    most_columns: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class RaggedRoute:
    """One row of the ragged table.

    Attributes:
        targets: classes of targets (`dsa_kernels.targets.target_class`).
        heads: padded head counts.
        config: how a program is built.
        reason: why.
        capability: the one target of the classes that it is for; None for all of them.
    """

    targets: tuple[TargetClass, ...]
    heads: range
    config: LogitsConfig
    reason: str
    capability: int | None = None

    @property
    def needs_gluon(self) -> bool:
        """Whether the kernel is written in Gluon, which old Tritons and Triton's interpreter lack."""
        return self.config.kernel != "triton"


@dataclass(frozen=True)
class PagedRoute:
    """One row of the paged table; `next_n` are the query rows of a request, the rest as in `RaggedRoute`.

    `config.most_columns` is what 163 KiB or more hold; 99 KiB hold half of it.
    """

    targets: tuple[TargetClass, ...]
    heads: range
    next_n: range
    config: PagedConfig
    reason: str


_EVERY: tuple[TargetClass, ...] = ("mma", "mma-small", "wgmma", "mma-roomy")
_WITHOUT_WGMMA: tuple[TargetClass, ...] = ("mma", "mma-small", "mma-roomy")

_UP_TO_32 = range(1, 33)
_UP_TO_64 = range(1, 65)
_OVER_32 = range(33, MAX_HEADS + 1)
_OVER_64 = range(65, MAX_HEADS + 1)
_ANY_HEADS = range(1, MAX_HEADS + 1)
_ONE = range(1, 2)
_ANY_ROWS = range(1, 2**31)

RAGGED_ROUTES: tuple[RaggedRoute, ...] = (
    RaggedRoute(
        _EVERY,
        _OVER_64,
        LogitsConfig(block_n=128, columns=128, num_warps=8, num_stages=2, row_block=64),
        "128 heads fill the dot with one query row.",
    ),
    RaggedRoute(
        ("wgmma",),
        _OVER_32,
        LogitsConfig(block_n=256, columns=64, num_warps=8, num_stages=3, row_block=64),
        "wgmma reads its operands from shared memory anyway; 64 columns leave room for a third stage.",
    ),
    RaggedRoute(
        ("wgmma",),
        _ANY_HEADS,
        LogitsConfig(block_n=128, columns=128, num_warps=8, num_stages=2, row_block=64),
        "Several query rows fill the dot of a wgmma.",
    ),
    RaggedRoute(
        _WITHOUT_WGMMA,
        _UP_TO_64,
        LogitsConfig(block_n=128, columns=64, num_warps=4, num_stages=3, row_block=64, kernel="mma", maxnreg=168),
        "Keys stay in registers as operands of mma.sync; with 168 registers three programs fit a multiprocessor.",
        capability=80,
    ),
    RaggedRoute(
        _WITHOUT_WGMMA,
        _UP_TO_64,
        LogitsConfig(block_n=128, columns=64, num_warps=4, num_stages=3, row_block=64, kernel="mma"),
        "Keys stay in registers as operands of mma.sync.",
    ),
    RaggedRoute(
        _WITHOUT_WGMMA,
        _UP_TO_64,
        LogitsConfig(block_n=128, columns=128, num_warps=4, num_stages=2, row_block=64),
        "This Triton has no Gluon: it reads the keys from shared memory for every dot, half as often with 128 columns.",
    ),
)

PAGED_ROUTES: tuple[PagedRoute, ...] = (
    PagedRoute(
        _EVERY,
        _OVER_64,
        _ANY_ROWS,
        PagedConfig(block_n=64, columns=128, most_columns=256, num_warps=4, num_stages=4),
        "128 heads fill the dot with one query row.",
    ),
    PagedRoute(
        ("wgmma",),
        _UP_TO_64,
        _ANY_ROWS,
        PagedConfig(block_n=64, columns=64, most_columns=256, num_warps=4, num_stages=5),
        "Smaller tiles, and two of them in flight, are faster with wgmma, above all for several draft tokens.",
    ),
    PagedRoute(
        _WITHOUT_WGMMA,
        range(33, 65),
        _ONE,
        PagedConfig(block_n=128, columns=16, most_columns=256, num_warps=4, num_stages=4),
        "Registers decide how many programs fit: few columns a dot.",
    ),
    PagedRoute(
        _WITHOUT_WGMMA,
        _UP_TO_64,
        _ANY_ROWS,
        PagedConfig(block_n=128, columns=32, most_columns=256, num_warps=4, num_stages=4),
        "Larger tiles are faster with mma.sync, and few columns a dot.",
    ),
)


def find_ragged_route(capability: int, heads: int, gluon: bool) -> RaggedRoute:
    """The first ragged route for a target, a padded head count, and a Triton with or without Gluon."""
    kind = target_class(capability)
    return next(
        route
        for route in RAGGED_ROUTES
        if kind in route.targets
        and heads in route.heads
        and route.capability in (None, capability)
        and (gluon or not route.needs_gluon)
    )


def find_paged_route(capability: int, heads: int, next_n: int) -> PagedRoute:
    """The first paged route for a target, a padded head count and the query rows of a request."""
    kind = target_class(capability)
    return next(
        route for route in PAGED_ROUTES if kind in route.targets and heads in route.heads and next_n in route.next_n
    )


@lru_cache(maxsize=1024)
def ragged_config(capability: int, heads: int, gluon: bool) -> LogitsConfig:
    """How `fp8_mqa_logits` is built for a target, a padded head count, and a Triton with or without Gluon."""
    return find_ragged_route(capability, heads, gluon).config


@lru_cache(maxsize=1024)
def paged_config(capability: int, heads: int, next_n: int) -> PagedConfig:
    """How `fp8_paged_mqa_logits` is built for a target, a padded head count and the query rows of a request."""
    config = find_paged_route(capability, heads, next_n).config
    if not has_small_shared_memory(capability):
        return config
    return replace(config, most_columns=config.most_columns // 2)


def ragged_routes_on(capability: int, gluon: bool) -> Iterator[tuple[int, RaggedRoute]]:
    """Every padded head count that a kernel is compiled for, and its ragged route on a target."""
    for heads in (16, 32, 64, 128):
        yield heads, find_ragged_route(capability, heads, gluon)


def paged_routes_on(capability: int, next_n: int) -> Iterator[tuple[int, PagedRoute]]:
    """Every padded head count that a kernel is compiled for, and its paged route on a target."""
    for heads in (16, 32, 64, 128):
        yield heads, find_paged_route(capability, heads, next_n)
