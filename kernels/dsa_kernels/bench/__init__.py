"""What `dsa-doctor bench` and kernels/benchmarks share: cases, gate, timing, floors and the machine's ceilings."""

from dsa_kernels.bench.case import Case, Peer, PeerResult, Result, measure
from dsa_kernels.bench.gate import GateError, relative_error, require, require_equal
from dsa_kernels.bench.machine import Machine, measure_machine
from dsa_kernels.bench.timing import Timing, time_calls
from dsa_kernels.bench.work import Work

__all__ = [
    "Case",
    "GateError",
    "Machine",
    "Peer",
    "PeerResult",
    "Result",
    "Timing",
    "Work",
    "measure",
    "measure_machine",
    "relative_error",
    "require",
    "require_equal",
    "time_calls",
]
