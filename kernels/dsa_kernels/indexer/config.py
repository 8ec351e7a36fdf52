"""Tile configurations by target: what is compiled, for whom."""

from __future__ import annotations

from dataclasses import dataclass

#: Width of the indexer's q and k rows.
HEAD_DIM = 128

#: Most heads of the indexer.
MAX_HEADS = 128

#: Elements of one program of the kernels that widen q and fill with -inf.
WIDEN_BLOCK = 2048
CLEAN_BLOCK = 4096

#: Most elements that one program selects from; longer rows are thinned out until that many can be left.
SELECT_BLOCK = 4096
SELECT_WARPS = 16

#: Elements of a step over rows that thinning out leaves too long.
ROW_BLOCK = 2048
ROW_WARPS = 8

#: Groups whose maxima bound a row from below, and the warps of the program that finds the bound.
THIN_GROUPS = 4096
BOUND_WARPS = 16

#: Neighbouring groups of one program, and how many elements of each it loads at once.
MAXIMA_COLUMNS = 128
MAXIMA_REPEATS = 16
MAXIMA_WARPS = 4

#: Words of 32 positions that one program marks, and its warps; one warp gathers them.
MARK_WORDS = 256
MARK_WARPS = 8
GATHER_WARPS = 1


@dataclass(frozen=True)
class LogitsConfig:
    """How one program of a logits kernel is built.

    Attributes:
        block_n: keys of a program, decoded once and kept in registers.
        columns: columns of the dot: query rows of a step times padded heads.
        num_warps: warps of a program.
        num_stages: depth of the pipeline over query rows.
        row_block: query rows that pass over one tile of keys (ragged logits).
    """

    block_n: int
    columns: int
    num_warps: int
    num_stages: int
    row_block: int


def padded_heads(num_heads: int) -> int:
    """Heads as the kernels see them: a power of two of at least 16, the smallest MMA."""
    return max(16, 1 << (num_heads - 1).bit_length())


def rows_per_step(config: LogitsConfig, heads: int) -> int:
    """Query rows that one dot covers, for a padded head count: several where a row has few heads."""
    return max(1, config.columns // heads)


def ragged_config(capability: int, heads: int) -> LogitsConfig:
    """The configuration of `fp8_mqa_logits` for a target and a padded head count.

    With mma.sync, 128 columns a step read the keys' operands half as often from shared memory; with wgmma, which reads
    them there anyway, 64 columns leave room for a third stage.
    """
    if heads > 64:
        return LogitsConfig(128, 128, 8, 2, 64)
    if capability // 10 == 9:
        return LogitsConfig(128, 64, 4, 3, 64)
    return LogitsConfig(128, 128, 4, 2, 64)


def paged_config(capability: int, heads: int) -> LogitsConfig:
    """The configuration of `fp8_paged_mqa_logits` for a target and a padded head count."""
    del capability
    if heads > 64:
        return LogitsConfig(128, 128, 8, 2, 1)
    return LogitsConfig(128, 64, 4, 2, 1)
