"""Tile configurations by target: what is compiled, for whom."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_kernels.targets import has_small_shared_memory, has_warpgroup_mma

#: Width of the indexer's q and k rows.
HEAD_DIM = 128

#: Most heads of the indexer.
MAX_HEADS = 128

#: Elements of one program of the kernels that widen q and fill with -inf.
WIDEN_BLOCK = 2048
CLEAN_BLOCK = 4096

#: Most elements that are selected from as they are; longer rows are thinned out until that many can be left.
SELECT_BLOCK = 4096
#: Warps of the program that selects from a row, where none can be longer than that, and where some can.
SELECT_WARPS = 4
LONG_WARPS = 16
#: Most registers of a thread of the latter: two such programs then fit a multiprocessor.
LONG_REGISTERS = 64

#: Groups whose maxima bound a row from below.
THIN_GROUPS = 4096
#: Elements of each group that the program of a row loads at once, and words of 32 marks that it gathers at once.
ROW_REPEATS = 2
GATHER_WORDS = 1024
#: Words of 32 marks that a program makes of one tile.
MARK_WORDS = 256

#: Where there are few rows, those longer than this are thinned out by many programs each.
FEW_ROWS = 32
SHARED_LENGTH = 131_072
#: Warps of the program that finds a bound.
BOUND_WARPS = 8
#: Neighbouring groups of one program, and how many elements of each it loads at once.
MAXIMA_COLUMNS = 128
MAXIMA_REPEATS = 16
MAXIMA_WARPS = 4
#: Warps of the program that marks one tile.
MARK_WARPS = 8

#: A program of the paged logits passes over at most this many keys.
MOST_KEYS = 4096


def one_program_limit(num_rows: int) -> int:
    """Longest row that one program thins out alone: any, where there are rows enough to keep the GPU busy."""
    return SHARED_LENGTH if num_rows <= FEW_ROWS else 2**31 - 1


def long_registers(capability: int) -> int | None:
    """Most registers of a thread that selects from long rows; None where the compiler would spill (12.x)."""
    return LONG_REGISTERS if capability < 100 else None


@dataclass(frozen=True)
class LogitsConfig:
    """How one program of a logits kernel is built.

    Attributes:
        block_n: keys of a program, decoded once and kept in registers.
        columns: columns of the dot: query rows of a step times padded heads.
        num_warps: warps of a program.
        num_stages: depth of the pipeline over query rows.
        row_block: query rows that pass over one tile of keys (ragged logits).
        kernel: "triton" (logits_kernels.py) or "mma" (gluon_ragged.py).
        most_registers: of a thread; None for what the target has.
    """

    block_n: int
    columns: int
    num_warps: int
    num_stages: int
    row_block: int
    kernel: str = "triton"
    most_registers: int | None = None


def padded_heads(num_heads: int) -> int:
    """Heads as the kernels see them: a power of two of at least 16, the smallest MMA."""
    return max(16, 1 << (num_heads - 1).bit_length())


def rows_per_step(config: LogitsConfig, heads: int) -> int:
    """Query rows that one dot covers, for a padded head count: several where a row has few heads."""
    return max(1, config.columns // heads)


def ragged_config(capability: int, heads: int, gluon: bool) -> LogitsConfig:
    """The configuration of `fp8_mqa_logits` for a target, a padded head count, and a Triton with or without Gluon.

    With mma.sync, Gluon keeps the keys' operands in registers, and three programs fit a multiprocessor; Triton reads
    them from shared memory for every dot, half as often with 128 columns. With wgmma, which reads them there anyway,
    64 columns leave room for a third stage.
    """
    if heads > 64:
        return LogitsConfig(128, 128, 8, 2, 64)
    if has_warpgroup_mma(capability):
        return LogitsConfig(256, 64, 8, 3, 64) if heads > 32 else LogitsConfig(128, 128, 8, 2, 64)
    if gluon:
        return LogitsConfig(128, 64, 4, 3, 64, "mma", 168 if capability == 80 else None)
    return LogitsConfig(128, 128, 4, 2, 64)


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


def paged_config(capability: int, heads: int, next_n: int) -> PagedConfig:
    """The configuration of `fp8_paged_mqa_logits` for a target, a padded head count and the query rows of a request.

    With wgmma, smaller tiles and two of them in flight are faster, above all for several draft tokens; with mma.sync
    larger tiles are, and few columns a dot: registers decide there how many programs fit.
    """
    most = 128 if has_small_shared_memory(capability) else 256
    if heads > 64:
        return PagedConfig(64, 128, most, 4, 4)
    if has_warpgroup_mma(capability):
        return PagedConfig(64, 64, most, 4, 5)
    return PagedConfig(128, 16 if heads > 32 and next_n == 1 else 32, most, 4, 4)


def resident_programs(capability: int, columns: int) -> int:
    """Programs of the paged logits that a multiprocessor holds, by the columns of one: query rows times padded heads.

    By registers and shared memory on 8.0 and 9.0.
    """
    if columns > 128:
        return 2
    if has_small_shared_memory(capability):
        return 3 if columns <= 64 else 2
    return 4 if columns <= 64 or has_warpgroup_mma(capability) else 3


def paged_registers(capability: int, columns: int) -> int | None:
    """Most registers of a thread of the paged logits, so that as many programs fit; None for what the target has."""
    return 128 if columns <= 64 and capability == 80 else None


def dots_per_row(config: PagedConfig, heads: int) -> int:
    """Dots that a query row's padded heads are cut into, where there are more of them than columns."""
    return max(1, heads // config.columns)


def paged_steps(config: PagedConfig, heads: int, next_n: int) -> tuple[int, int]:
    """(query rows of one dot, query rows of a program) for a padded head count: nothing else decides what compiles."""
    rows = max(1, config.columns // heads)
    while next_n % rows:
        rows //= 2
    dots = next_n // rows
    blocks = -(-dots // max(1, config.most_columns // (rows * heads)))
    return rows, rows * -(-dots // blocks)


def programs_per_request(requests: int, slots: int) -> int:
    """Programs that share a request's tiles, however long its context: enough to fill the GPU once.

    Args:
        requests: requests, times the blocks that each one's query rows are cut into.
        slots: programs that the GPU holds at once.
    """
    return max(1, slots // requests)
