"""Compute capabilities and the one table of what each can do; no other module compares capability numbers.

Sources: CUDA C++ Programming Guide, "Compute Capabilities" (shared memory per block, opt-in) and "Binary
Compatibility" / "PTX Compatibility"; Triton's NVIDIA backend (float8e4nv from 8.9); DeepGEMM's README and its
`Unsupported architecture` assertion (9.0 and 10.x).
"""

import re
from typing import Literal, NamedTuple

_ARCHITECTURE = re.compile(r"(?:sm|compute)_(\d+)(\d)([af]?)\Z")


class Capability(NamedTuple):
    """A CUDA compute capability, e.g. (8, 0)."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def sm(self) -> str:
        """Return the short name, e.g. "sm80"."""
        return f"sm{self.major}{self.minor}"

    @classmethod
    def parse(cls, text: str) -> "Capability":
        """Parse "8.0", "sm80", "sm_80", "sm_90a" or "80".

        Raises:
            ValueError: the text is none of these.
        """
        match = re.fullmatch(r"(\d{1,2})\.(\d)", text.strip()) or re.fullmatch(
            r"(?:sm_?|compute_)?(\d{1,2})(\d)[af]?", text.strip().lower()
        )
        if match is None:
            raise ValueError(f"{text!r} is not a compute capability; accepted: 8.0, sm80, sm_80")
        return cls(int(match.group(1)), int(match.group(2)))


SHARED_MEMORY_PER_BLOCK = {
    Capability(7, 0): 98304,
    Capability(7, 5): 65536,
    Capability(8, 0): 166912,
    Capability(8, 6): 101376,
    Capability(8, 7): 166912,
    Capability(8, 9): 101376,
    Capability(9, 0): 232448,
    Capability(10, 0): 232448,
    Capability(10, 3): 232448,
    Capability(11, 0): 232448,
    Capability(12, 0): 101376,
    Capability(12, 1): 101376,
}
"""Bytes of shared memory that one block may opt into."""


def shared_memory_per_block(capability: Capability) -> int | None:
    """Return the opt-in limit in bytes, or None for a capability that is not in the table."""
    return SHARED_MEMORY_PER_BLOCK.get(capability)


def triton_has_e4m3(capability: Capability) -> bool:
    """Whether Triton accepts float8e4nv: 8.9 and later."""
    return capability >= (8, 9)


def deep_gemm_supports(capability: Capability) -> bool:
    """Whether DeepGEMM's attention kernels exist for it: Hopper and datacentre Blackwell.

    Only used where the installed vLLM could not be asked (`is_deep_gemm_supported()`), which knows its own copy better.
    """
    return has_native_path(capability)


def plugin_serves(capability: Capability) -> Literal["default", "on request", "no"]:
    """Whether dsa-doctor's plugin acts on it: 8.x by default, 12.x when asked, never where native paths exist."""
    if capability.major == 8:
        return "default"
    return "on request" if capability.major == 12 else "no"


def is_consumer_blackwell(capability: Capability) -> bool:
    """Whether it is 12.x, for which FlashInfer has sparse-MLA kernels of its own."""
    return capability.major == 12


def has_native_path(capability: Capability) -> bool:
    """Whether FlashMLA and DeepGEMM are written for it: Hopper and datacentre Blackwell."""
    return capability.major in (9, 10)


def vllm_minimum() -> Capability:
    """Return the oldest capability that the kernels and vLLM's stock wheels are built for."""
    return Capability(8, 0)


def has_wide_shared_memory(capability: Capability) -> bool:
    """Whether a block may use 128 KiB and more, which vLLM's persistent top-k takes for granted."""
    limit = shared_memory_per_block(capability)
    return limit is not None and limit >= 128 * 1024


def code_runs_on(architecture: str, kind: Literal["machine_code", "ptx"], capability: Capability) -> bool:
    """Whether code built for `architecture` ("sm_80", "sm_90a", "sm_100f") runs on `capability`.

    Machine code runs on the same major version from its minor version up; with the suffix `a` on exactly that
    capability; with `f` within the same family. PTX without suffix is compiled by the driver for anything newer.
    An architecture that cannot be parsed runs nowhere.
    """
    match = _ARCHITECTURE.match(architecture)
    if match is None:
        return False
    built = Capability(int(match.group(1)), int(match.group(2)))
    suffix = match.group(3)
    if suffix == "a":
        return capability == built
    if kind == "ptx" and not suffix:
        return capability >= built
    return capability.major == built.major and capability.minor >= built.minor
