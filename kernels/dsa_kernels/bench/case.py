"""One shape of one op: its inputs, its gate, its work, and the result of gating and timing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dsa_kernels.bench.gate import GateError
from dsa_kernels.bench.machine import Machine
from dsa_kernels.bench.timing import Timing, time_calls
from dsa_kernels.bench.work import Work

#: ok: right and timed. wrong: the gate failed. failed: it did not run. skipped: not tried, for the reason given.
Status = Literal["ok", "wrong", "failed", "skipped"]
Call = Callable[[], object]

#: Name of the peer that is the op itself with `batch_invariant`.
INVARIANT = "batch-invariant"


@dataclass
class Peer:
    """Another implementation of the same work.

    Attributes:
        calls: as `Case.calls`.
        check: returns its relative error or raises GateError; a peer that is wrong has no speed either.
    """

    calls: Sequence[Call]
    check: Callable[[], float]


@dataclass
class Case:
    """One shape of one op.

    Attributes:
        op: name of the op, as the tables show it.
        shape: what the figures depend on, for the table and the JSON.
        work: bytes and FLOP at the least.
        limit: largest relative error that the gate lets pass; 0 means bit for bit.
        check: compares the op with its naive reference on this very shape, or on rows spread over it; returns the
            relative error or raises GateError.
        calls: the op on rotating inputs.
        peers: others, or why one is not there.
    """

    op: str
    shape: dict[str, int | str]
    work: Work
    limit: float
    check: Callable[[], float]
    calls: Sequence[Call]
    peers: dict[str, Peer | str] = field(default_factory=dict)


def named(op: str, shape: Mapping[str, int | str]) -> str:
    """How a case is named in messages."""
    return f"{op}, " + ", ".join(f"{key} {value}" for key, value in shape.items())


@dataclass(frozen=True)
class PeerResult:
    """A peer's time, or why it has none."""

    timing: Timing | None
    message: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a case. There is a timing only where the gate passed."""

    op: str
    shape: Mapping[str, int | str]
    status: Status
    limit: float
    error: float | None = None
    message: str = ""
    timing: Timing | None = None
    moved_bytes: float = 0.0
    flop: float = 0.0
    byte_floor_us: float = 0.0
    flop_floor_us: float = 0.0
    peers: Mapping[str, PeerResult] = field(default_factory=dict)

    @property
    def floor_us(self) -> float:
        """The larger floor: nothing that does this work runs faster at the measured ceilings."""
        return max(self.byte_floor_us, self.flop_floor_us)

    @property
    def share(self) -> float | None:
        """Floor over time: 1.0 at the ceiling."""
        return self.floor_us / self.timing.median_us if self.timing else None

    @property
    def gb_per_s(self) -> float | None:
        """The bytes that had to move, over the time."""
        return self.moved_bytes / self.timing.median_us / 1e3 if self.timing else None

    @property
    def tflop_per_s(self) -> float | None:
        """The FLOP that had to be done, over the time; None where none are counted."""
        return self.flop / self.timing.median_us / 1e6 if self.timing and self.flop else None

    def as_json(self) -> dict[str, Any]:
        """Everything, with the derived figures; numbers that are not finite become None."""
        error = self.error if self.error is not None and math.isfinite(self.error) else None
        derived = {"floor_us": self.floor_us, "share_of_floor": self.share, "gb_per_s": self.gb_per_s}
        return asdict(self) | {"error": error, "tflop_per_s": self.tflop_per_s} | derived


def first_line(error: BaseException) -> str:
    """The kind of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def measure(case: Case, machine: Machine, milliseconds: float = 60.0) -> Result:
    """Gate a case and, where it is right, time it and its peers. Nothing that the case does raises from here."""
    byte_floor, flop_floor = case.work.floors(machine)

    def result(status: Status, error: float | None, message: str, timing: Timing | None = None, **more: Any) -> Result:
        return Result(
            case.op,
            dict(case.shape),
            status,
            case.limit,
            error,
            message,
            timing,
            case.work.moved_bytes,
            case.work.flop,
            byte_floor,
            flop_floor,
            **more,
        )

    try:
        error = case.check()
        timing = time_calls(case.calls, milliseconds)
    except GateError as wrong:
        return result("wrong", wrong.error, str(wrong))
    except Exception as failure:
        return result("failed", None, first_line(failure))
    peers = {name: _measure_peer(peer, milliseconds / 2) for name, peer in case.peers.items()}
    return result("ok", error, "", timing, peers=peers)


def _measure_peer(peer: Peer | str, milliseconds: float) -> PeerResult:
    if isinstance(peer, str):
        return PeerResult(None, peer)
    try:
        peer.check()
        return PeerResult(time_calls(peer.calls, milliseconds))
    except Exception as failure:
        return PeerResult(None, first_line(failure))
