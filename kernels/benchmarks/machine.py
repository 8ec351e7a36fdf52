"""Moved to `dsa_kernels.bench.machine`."""

from dsa_kernels.bench.machine import Machine, measure_machine  # noqa: F401
