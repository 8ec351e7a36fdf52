"""What every benchmark shares: timing, the correctness gate and the machine's measured ceilings."""

from dsa_kernels.bench.gate import GateError, relative_error, require
from dsa_kernels.bench.machine import Machine, measure_machine
from dsa_kernels.bench.timing import Timing, time_calls

__all__ = ["GateError", "Machine", "Timing", "measure_machine", "relative_error", "require", "time_calls"]
