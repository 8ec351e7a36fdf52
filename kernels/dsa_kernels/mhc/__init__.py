"""DeepSeek-V4's manifold-constrained hyper-connections (mHC): the product before their norm."""

from dsa_kernels.mhc.interface import hc_prenorm_gemm, hc_prenorm_splits
from dsa_kernels.mhc.naive import naive_hc_prenorm
from dsa_kernels.mhc.variants import variants
from dsa_kernels.mhc.warmup import warmup_mhc

__all__ = ["hc_prenorm_gemm", "hc_prenorm_splits", "naive_hc_prenorm", "variants", "warmup_mhc"]
