"""Readers of compiled files: shared objects, the GPU fat binaries inside them, kernels and op schemas.

Pure functions on files and bytes: they decide nothing about where to look, and import neither torch nor vllm.
"""

from dsa_doctor.binaries.elf import ElfError, SharedObject
from dsa_doctor.binaries.fatbin import FatbinScan, GpuImage, scan_fatbins
from dsa_doctor.binaries.kernels import kernel_names, mangled_fragment
from dsa_doctor.binaries.payload import PayloadError, payload_chunks
from dsa_doctor.binaries.schemas import op_schemas

__all__ = [
    "ElfError",
    "FatbinScan",
    "GpuImage",
    "PayloadError",
    "SharedObject",
    "kernel_names",
    "mangled_fragment",
    "op_schemas",
    "payload_chunks",
    "scan_fatbins",
]
