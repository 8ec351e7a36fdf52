"""DeepSeek-V4.1's engram: rows of a table by hashed ids."""

from dsa_kernels.engram.interface import engram_lookup
from dsa_kernels.engram.naive import naive_engram_lookup
from dsa_kernels.engram.variants import variants
from dsa_kernels.engram.warmup import warmup_engram

__all__ = ["engram_lookup", "naive_engram_lookup", "variants", "warmup_engram"]
