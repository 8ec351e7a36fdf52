"""What the machine can do at best, measured in the same run as the kernels."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

import torch
import triton

from dsa_kernels.bench.confine import confine_to_target
from dsa_kernels.bench.timing import time_calls
from dsa_kernels.emulation import emulated


@dataclass(frozen=True)
class Machine:
    """The GPU, the software and two measured ceilings.

    Attributes:
        capability: of the GPU, as '9.0'.
        override_arch: TRITON_OVERRIDE_ARCH, or empty: the pipeline that the kernels were compiled for.
        ptx_of: the target whose own PTX was assembled for this GPU (`dsa_kernels.emulation`), or empty.
        copy_bytes_per_s: bytes read plus bytes written by a large copy.
        bf16_flop_per_s: a large bf16 product on random data.
        confined_bytes: shared memory of a multiprocessor that Triton's kernels are left, as their target has it; 0
            where they have all that this GPU has.
    """

    gpu: str
    capability: str
    override_arch: str
    driver: str
    torch: str
    triton: str
    copy_bytes_per_s: float
    bf16_flop_per_s: float
    l2_bytes: int
    confined_bytes: int = 0
    ptx_of: str = ""

    @property
    def pipeline(self) -> str:
        """What a figure of this run may be called; an emulated architecture is never called a GPU."""
        if not self.override_arch:
            return "native"
        other = ", not an A100" if self.override_arch == "sm80" else ""
        shared = f" with {self.confined_bytes // 1024} KiB of shared memory" if self.confined_bytes else ""
        compiled = f"{self.ptx_of} PTX" if self.ptx_of else f"{self.override_arch} pipeline"
        return f"{compiled} on {self.gpu}{shared}{other}"


def driver_version() -> str:
    """The NVIDIA driver's version as nvidia-smi says it, or 'unknown'."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return lines[0] if lines else "unknown"


def copy_rate(milliseconds: float) -> float:
    """Bytes per second, read plus written, of a copy of 1 GiB."""
    source = torch.randn(2**29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    timing = time_calls([lambda: target.copy_(source)], milliseconds)
    return 2 * source.numel() * source.element_size() / (timing.median_us * 1e-6)


def product_rate(milliseconds: float, side: int = 8192) -> float:
    """FLOP per second of a bf16 product of two random square matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    timing = time_calls([lambda: torch.mm(a, b)], milliseconds)
    return float(2 * side**3 / (timing.median_us * 1e-6))


def describe_machine(copy_bytes_per_s: float = 1.0, bf16_flop_per_s: float = 1.0) -> Machine:
    """The current CUDA device and the software, with ceilings that were measured, or none.

    From now on Triton's kernels are confined to the shared memory of their target (confine.py).
    """
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Machine(
        gpu=properties.name,
        capability=f"{properties.major}.{properties.minor}",
        override_arch=os.environ.get("TRITON_OVERRIDE_ARCH", ""),
        ptx_of=f"sm{emulated()}" if emulated() else "",
        driver=driver_version(),
        torch=torch.__version__,
        triton=triton.__version__,
        copy_bytes_per_s=copy_bytes_per_s,
        bf16_flop_per_s=bf16_flop_per_s,
        l2_bytes=properties.L2_cache_size,
        confined_bytes=confine_to_target(),
    )


def measure_machine(milliseconds: float = 60.0) -> Machine:
    """Measure both ceilings, each for about `milliseconds`; takes 2.5 GB of GPU memory and gives it back."""
    machine = describe_machine(copy_rate(milliseconds), product_rate(milliseconds))
    torch.cuda.empty_cache()
    return machine
