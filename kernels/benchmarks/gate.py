"""Moved to `dsa_kernels.bench.gate`."""

from dsa_kernels.bench.gate import GateError, relative_error, require  # noqa: F401
