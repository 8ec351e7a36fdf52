"""What the kernels need to know of a compute capability: one table, asked through named functions."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

#: Largest shared memory of one block, in bytes (opt-in limit), by compute capability times ten.
SHARED_MEMORY_LIMIT = {
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    103: 232_448,
    110: 232_448,
    120: 101_376,
    121: 101_376,
}

#: The targets that every default configuration is compiled for and checked against.
VERIFIED_TARGETS = (80, 86, 89, 90, 120)

#: Used where there is no GPU (Triton's interpreter), so that tests meet the configuration this project exists for.
DEFAULT_CAPABILITY = 80

#: Multiprocessors assumed where there is no GPU (Triton's interpreter).
INTERPRETER_MULTIPROCESSORS = 2


def shared_memory_limit(capability: int) -> int:
    """Bytes of shared memory that one block may use on `capability` (80 means 8.0).

    An unknown capability gets the smallest limit of its major version, or of the whole table.
    """
    if capability in SHARED_MEMORY_LIMIT:
        return SHARED_MEMORY_LIMIT[capability]
    family = [limit for known, limit in SHARED_MEMORY_LIMIT.items() if known // 10 == capability // 10]
    return min(family or SHARED_MEMORY_LIMIT.values())


def multiprocessor_memory(capability: int) -> int:
    """Bytes of shared memory of a multiprocessor: the limit of a block and the 1 KiB that each block takes besides."""
    return shared_memory_limit(capability) + 1024


def has_small_shared_memory(capability: int) -> bool:
    """Whether a block gets about 99 KiB (8.6, 8.9, 12.x) rather than 163 KiB or more."""
    return shared_memory_limit(capability) < 128 * 1024


def has_roomy_shared_memory(capability: int) -> bool:
    """Whether two blocks of more than 80 KiB fit beside each other (9.0, 10.x and 11.0)."""
    return shared_memory_limit(capability) >= 200 * 1024


def has_warpgroup_mma(capability: int) -> bool:
    """Whether Triton lowers a 64-row dot to wgmma (Hopper alone)."""
    return capability // 10 == 9


TargetClass = Literal["mma", "mma-small", "wgmma", "mma-roomy"]


def target_class(capability: int) -> TargetClass:
    """What decides between kernels on a target: its matrix instruction and the shared memory of a block.

    "mma": mma.sync and 163 KiB (8.0, 8.7). "mma-small": mma.sync and 99 KiB (8.6, 8.9, 12.x, and what is not known).
    "wgmma": wgmma and 227 KiB (9.0). "mma-roomy": 227 KiB and no kernel of ours for its tcgen05 (10.x, 11.0).
    """
    if has_small_shared_memory(capability):
        return "mma-small"
    if has_warpgroup_mma(capability):
        return "wgmma"
    return "mma-roomy" if has_roomy_shared_memory(capability) else "mma"


def converts_fp8(capability: int) -> bool:
    """Whether one instruction converts e4m3 codes to fp16 (8.9 and newer)."""
    return capability >= 89


def has_kernels(capability: int) -> bool:
    """Whether the kernels are written for it (8.0 and newer)."""
    return capability >= 80


def is_blackwell(capability: int) -> bool:
    """Whether it is of Blackwell's generation or newer (10.x to 12.x)."""
    return capability >= 100


def is_ga100(capability: int) -> bool:
    """Whether it is 8.0: 65,536 registers and 163 KiB a multiprocessor, where 8.6 and 8.9 have less shared memory."""
    return capability == 80


def launches_clusters(capability: int) -> bool:
    """Whether vLLM launches kernels of thread-block clusters on it (9.x to 11.x, not 12.x)."""
    return 9 <= capability // 10 < 12


def parse_target(text: str) -> int:
    """Read 'sm80', 'sm_80', 'sm90a', '8.0' or '80' as 80.

    Raises:
        ValueError: for anything else, and for a capability outside the table.
    """
    match = re.fullmatch(r"(?:sm_?)?(\d{2,3})a?|(\d{1,2})\.(\d)", text.strip().lower())
    known = ", ".join(f"sm{capability}" for capability in SHARED_MEMORY_LIMIT)
    if match is None:
        raise ValueError(f"target: got {text!r}, accepted: one of {known}")
    capability = int(match[1]) if match[1] else 10 * int(match[2]) + int(match[3])
    if capability not in SHARED_MEMORY_LIMIT:
        raise ValueError(f"target: got {text!r}, accepted: one of {known}")
    return capability


def running_capability(device: object = None) -> int:
    """The capability that Triton compiles for on this device.

    TRITON_OVERRIDE_ARCH wins, as it does inside Triton: a kernel must be configured for the pipeline it is compiled
    with. Without a CUDA device (Triton's interpreter) it is `DEFAULT_CAPABILITY`.
    """
    override = os.environ.get("TRITON_OVERRIDE_ARCH", "")
    if override:
        return parse_target(override)
    import torch

    if not torch.cuda.is_available():
        return DEFAULT_CAPABILITY
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * int(major) + int(minor)


@lru_cache(maxsize=64)
def device_facts(device: torch.device) -> tuple[int, int]:
    """(capability, multiprocessors) of a device, read once: no driver call on the hot path."""
    import torch

    capability = running_capability(device)
    if device.type != "cuda":
        return capability, INTERPRETER_MULTIPROCESSORS
    return capability, int(torch.cuda.get_device_properties(device).multi_processor_count)
