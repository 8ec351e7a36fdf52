"""Shared memory of the target: kernels compiled for another architecture share a multiprocessor as they would there.

`TRITON_OVERRIDE_ARCH=sm80` on a Hopper GPU changes what is compiled, but 228 KiB a multiprocessor hold more programs
than an A100's 164 KiB do, and which tile is best depends on that.
"""

from __future__ import annotations

import ctypes

import torch

from dsa_kernels.targets import multiprocessor_memory, running_capability

#: cuFuncSetAttribute's CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, in percent of what a multiprocessor has.
_CARVEOUT = 9


def carveout_percent(target: int, per_multiprocessor: int) -> int | None:
    """Percent of a multiprocessor's shared memory that `target` has on one of its own, None where that is no less.

    Args:
        target: capability that is compiled for, times ten.
        per_multiprocessor: bytes of shared memory of one multiprocessor here.
    """
    wanted = multiprocessor_memory(target)
    # Rounded down: the driver takes the next larger size that it knows.
    return wanted * 100 // per_multiprocessor if wanted < per_multiprocessor else None


def confine_to_target() -> int:
    """Confine every Triton kernel that is loaded from now on in this process to the shared memory of its target.

    Returns:
        Bytes of shared memory on a multiprocessor that they are left; 0 where nothing was confined: the target is this
        GPU, has no less, or this Triton or driver offers no way.
    """
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    target = running_capability()
    if target == 10 * properties.major + properties.minor:
        return 0
    percent = carveout_percent(target, properties.shared_memory_per_multiprocessor)
    if percent is None:
        return 0
    try:
        import triton

        driver = ctypes.CDLL("libcuda.so.1")
        hooks = triton.knobs.runtime.kernel_load_end_hook
    except (ImportError, AttributeError, OSError):
        return 0

    def confine(module: object, function: int, *_: object) -> None:
        del module
        driver.cuFuncSetAttribute(ctypes.c_void_p(function), _CARVEOUT, percent)

    hooks.add(confine)
    return multiprocessor_memory(target)
