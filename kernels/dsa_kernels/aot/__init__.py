"""Ahead-of-time compilation: what every kernel becomes on a target, checked without a GPU."""

from dsa_kernels.aot.compile import CompiledReport, all_variants, compile_variant
from dsa_kernels.aot.variants import KernelVariant

__all__ = ["CompiledReport", "KernelVariant", "all_variants", "compile_variant"]
