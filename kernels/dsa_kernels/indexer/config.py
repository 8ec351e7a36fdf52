"""Widths, limits and block sizes of the indexer's kernels; the tiles of the logits by target are in dispatch.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsa_kernels.targets import has_small_shared_memory, has_warpgroup_mma, is_blackwell, is_ga100

if TYPE_CHECKING:
    from dsa_kernels.indexer.dispatch import LogitsConfig, PagedConfig

#: Width of the indexer's q and k rows.
HEAD_DIM = 128

#: Most heads of the indexer.
MAX_HEADS = 128

#: Elements of one program of the kernels that widen q and fill with -inf.
WIDEN_BLOCK = 2048
CLEAN_BLOCK = 4096

#: Elements that one program selects from in registers. Longer rows are filtered first, until at most that many remain.
SELECT_BLOCK = 4096
#: Warps of the program that selects from a row, where every row has at most SELECT_BLOCK elements.
SELECT_WARPS = 4
#: Warps of the program that selects from a row, where some row has more.
LONG_WARPS = 16
#: Most registers of a thread of the program for long rows: two such programs then fit a multiprocessor.
LONG_REGISTERS = 64

#: Groups of a long row. The k-th largest of their maxima is a lower bound of the k-th largest element.
THIN_GROUPS = 4096
#: Elements of each group that the program of a row loads at once.
ROW_REPEATS = 2
#: Words of 32 marks (one bit an element: may it be selected?) that the program of a row gathers at once.
GATHER_WORDS = 1024
#: Words of 32 marks that one program writes for a tile of a row.
MARK_WORDS = 256

#: So few rows do not fill a GPU: then those longer than SHARED_LENGTH are filtered by many programs each.
FEW_ROWS = 32
#: Elements that one program filters alone where there are few rows.
SHARED_LENGTH = 131_072
#: Warps of the program that finds a row's lower bound.
BOUND_WARPS = 8
#: Neighbouring groups whose maxima one program finds.
MAXIMA_COLUMNS = 128
#: Elements of each group that it loads at once.
MAXIMA_REPEATS = 16
#: Warps of that program.
MAXIMA_WARPS = 4
#: Warps of the program that marks one tile of a row.
MARK_WARPS = 8

#: A program of the paged logits passes over at most this many keys.
MOST_KEYS = 4096


def one_program_limit(num_rows: int) -> int:
    """Longest row that one program filters alone. With more than FEW_ROWS rows the GPU is full anyway: every row is."""
    return SHARED_LENGTH if num_rows <= FEW_ROWS else 2**31 - 1


def long_registers(capability: int) -> int | None:
    """Most registers of a thread that selects from long rows; None where the compiler would spill (Blackwell)."""
    return None if is_blackwell(capability) else LONG_REGISTERS


def padded_heads(num_heads: int) -> int:
    """Heads as the kernels see them: a power of two of at least 16, the smallest MMA."""
    return max(16, 1 << (num_heads - 1).bit_length())


def rows_per_step(config: LogitsConfig, heads: int) -> int:
    """Query rows that one dot covers, for a padded head count: several where a row has few heads."""
    return max(1, config.columns // heads)


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
    return 128 if columns <= 64 and is_ga100(capability) else None


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
