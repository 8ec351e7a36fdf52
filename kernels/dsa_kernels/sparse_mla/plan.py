"""Launch plans: grid and number of parts, from shapes alone (never from device data)."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_kernels import gluon_support
from dsa_kernels.sparse_mla.config import MAX_SPLITS
from dsa_kernels.sparse_mla.dispatch import TileConfig, tile_config

#: Fewer rows than this are not worth a part of their own.
SMALLEST_PART = 64


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
