"""Launch plans: grid and number of parts, from shapes alone (never from device data)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from dsa_kernels.sparse_mla.config import MAX_SPLITS, TileConfig, tile_config
from dsa_kernels.targets import running_capability

#: Fewer rows than this are not worth a part of their own.
SMALLEST_PART = 64

#: Multiprocessors assumed where there is no GPU (Triton's interpreter).
INTERPRETER_MULTIPROCESSORS = 2


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
    config = tile_config(capability, num_heads, fp8)
    num_head_blocks = -(-num_heads // config.block_h)
    slots = multiprocessors * config.programs_per_sm
    wanted = slots // max(1, num_tokens * num_head_blocks)
    most = min(MAX_SPLITS, -(-topk // SMALLEST_PART))
    return LaunchPlan(config, num_head_blocks, max(1, min(wanted, most)))


@lru_cache(maxsize=64)
def device_facts(device: torch.device) -> tuple[int, int]:
    """(capability, multiprocessors) of a device, read once: no driver call on the hot path."""
    capability = running_capability(device)
    if device.type != "cuda":
        return capability, INTERPRETER_MULTIPROCESSORS
    return capability, int(torch.cuda.get_device_properties(device).multi_processor_count)
