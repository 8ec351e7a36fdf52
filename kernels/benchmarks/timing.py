"""Moved to `dsa_kernels.bench.timing`."""

from dsa_kernels.bench.timing import Timing, time_calls  # noqa: F401
