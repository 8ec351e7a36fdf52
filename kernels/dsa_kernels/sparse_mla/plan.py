"""Launch plans: grid and number of parts, from shapes alone (never from device data)."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_kernels import gluon_support
from dsa_kernels.sparse_mla.config import MAX_SPLITS
from dsa_kernels.sparse_mla.dispatch import TileConfig, tile_config

#: Fewer rows than this are not worth a part of their own.
SMALLEST_PART = 64

#: Where the plan may not follow the batch: entries of a selection for which it gets one more part, up to 32 heads and
#: beyond (a part's partial result takes 2 KiB a head), and the most parts. Few tokens ask for many parts, many for one.
INVARIANT_PART = 256
INVARIANT_PART_MANY_HEADS = 512
INVARIANT_SPLITS = 8


@dataclass(frozen=True)
class LaunchPlan:
    """What one call launches.

    Attributes:
        config: tile configuration, which decides what is compiled.
        num_head_blocks: programs along the heads.
        num_splits: parts of each token's selection; 1 means that no merge is needed.
    """

    config: TileConfig
    num_head_blocks: int
    num_splits: int


def plan_launch(
    num_tokens: int, num_heads: int, topk: int, fp8: bool, capability: int, multiprocessors: int
) -> LaunchPlan:
    """Choose the plan. The configuration depends on (capability, num_heads, fp8) alone: no compile per batch size."""
    config = tile_config(capability, num_heads, fp8, gluon_support.USABLE)
    num_head_blocks = -(-num_heads // config.block_h)
    slots = multiprocessors * config.programs_per_sm
    wanted = slots // max(1, num_tokens * num_head_blocks)
    most = min(MAX_SPLITS, -(-topk // SMALLEST_PART))
    return LaunchPlan(config, num_head_blocks, max(1, min(wanted, most)))


def plan_invariant(num_heads: int, topk: int, two_sources: bool, fp8: bool, capability: int) -> LaunchPlan:
    """Choose a plan that is the same for a token whatever else is in the batch: nothing of the batch is asked.

    A part's bounds follow from the number of parts and the token's own lengths. DeepSeek-V4's second selection is as
    wide as the longest request of a step asks for, so that with two sources its width may not count either.

    Args:
        num_heads: query heads of this rank.
        topk: entries of a token's selection, the same in every call that the token may be in.
        two_sources: whether there is a second source; `topk` is not read then.
        fp8: whether rows are fp8_ds_mla tokens.
        capability: of the target, times ten.
    """
    config = tile_config(capability, num_heads, fp8, gluon_support.USABLE)
    size = INVARIANT_PART if num_heads <= 32 else INVARIANT_PART_MANY_HEADS
    splits = INVARIANT_SPLITS * INVARIANT_PART // size // 2 if two_sources else min(INVARIANT_SPLITS, topk // size)
    return LaunchPlan(config, -(-num_heads // config.block_h), max(1, splits))
