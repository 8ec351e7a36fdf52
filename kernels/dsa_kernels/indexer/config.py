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

#: Elements that a program of the selection looks at in a step.
SELECT_BLOCK = 4096
SELECT_WARPS = 16
EMIT_WARPS = 8

#: The same for rows that thinning out leaves too long; larger steps spill on some target.
ROW_BLOCK = 2048
ROW_WARPS = 8

#: Steps that thinning out takes at once.
THIN_BLOCKS = 2

#: A row is cut into parts of at least this many elements, and into at most this many parts.
SMALLEST_PART = 4096
MAX_PARTS = 128

#: A row is shared only where at least this many programs can have a part of it.
FEWEST_PARTS = 6


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
