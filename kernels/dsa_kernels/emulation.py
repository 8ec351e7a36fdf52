"""Emulation of a target on a newer GPU: PTX whose own target it is, assembled by ptxas for the GPU at hand.

`TRITON_OVERRIDE_ARCH=sm80` alone ends at Triton's IR: it picks mma.sync and cp.async as for sm80, and LLVM still emits
PTX for the GPU at hand. Here LLVM emits for the target too. What then differs from a GPU of that target is ptxas's code
generation, and the machine: clocks, bandwidth, L2. Shared memory is confined by `dsa_kernels.bench.confine`.
"""

from __future__ import annotations

import os
from typing import Any

from dsa_kernels.targets import parse_target

#: Names the target to emulate, "sm80" say; read when `dsa_kernels` is imported.
VARIABLE = "DSA_KERNELS_EMULATE"


class EmulationError(RuntimeError):
    """This Triton offers no way to emulate, or another hook on its stages is in place; the message says which."""


class PtxOfTarget:
    """Triton's hook on the stages of a compilation (`triton.knobs.runtime.add_stages_inspection_hook`).

    Triton calls it with a backend's stages to change, and without arguments for what it adds to cache keys.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def __call__(self, *arguments: Any) -> Any:
        """Replace the stage that emits PTX; without arguments return (key, hash) for Triton's caches."""
        if not arguments:
            return f"ptx-of-sm{self.capability}", f"ptx-of-sm{self.capability}"
        backend, stages, options, *_ = arguments
        stages["ptx"] = lambda source, metadata: backend.make_ptx(source, metadata, options, self.capability)
        return None


def emulate(target: str) -> int:
    """Compile every Triton kernel from now on in this process, and in its children, as for `target`.

    Kernels that this process has compiled already stay as they are. Compiled kernels are kept in a cache folder of
    their own: Triton 3.6 does not tell such kernels from others.

    Args:
        target: "sm80", "8.6" or the like; not newer than the GPU.

    Returns:
        The target's capability, times ten.

    Raises:
        ValueError: a target that is not known, or TRITON_OVERRIDE_ARCH names another.
        EmulationError: no way to do it in this Triton.
    """
    capability = parse_target(target)
    override = os.environ.get("TRITON_OVERRIDE_ARCH", "")
    if override and parse_target(override) != capability:
        raise ValueError(f"{VARIABLE}: got {target!r}, but TRITON_OVERRIDE_ARCH is {override!r}; unset one of them")
    try:
        from triton import knobs

        hook = knobs.runtime.add_stages_inspection_hook
    except (ImportError, AttributeError) as error:
        raise EmulationError(f"this Triton has no hook on a compilation's stages ({error}); 3.6 and newer do") from None
    if isinstance(hook, PtxOfTarget) and hook.capability == capability:
        return capability
    if hook is not None:
        raise EmulationError(f"another hook on Triton's stages is in place ({hook!r}); both cannot act")
    os.environ["TRITON_OVERRIDE_ARCH"] = f"sm{capability}"
    suffix = f"-ptx-sm{capability}"
    folder = os.environ.get("TRITON_CACHE_DIR") or str(knobs.cache.dir)
    if not folder.endswith(suffix):
        os.environ["TRITON_CACHE_DIR"] = folder + suffix
    os.environ[VARIABLE] = f"sm{capability}"
    knobs.runtime.add_stages_inspection_hook = PtxOfTarget(capability)
    return capability


def emulated() -> int | None:
    """The capability whose PTX this process compiles by `emulate`, or None."""
    try:
        from triton import knobs

        hook = knobs.runtime.add_stages_inspection_hook
    except (ImportError, AttributeError):
        return None
    return hook.capability if isinstance(hook, PtxOfTarget) else None
