"""Runs cases, one after the other, whatever becomes of each."""

from __future__ import annotations

import gc
import math
import os
import time
from dataclasses import dataclass
from typing import Literal

import torch

from dsa_kernels import gluon_support
from dsa_kernels.emulation import emulated
from dsa_kernels.routes import route_lines
from dsa_kernels.selftest.case import CannotJudge, Case, NotHere, Place
from dsa_kernels.targets import running_capability

Status = Literal["pass", "fail", "error", "unknown", "skipped"]


@dataclass(frozen=True)
class Record:
    """What became of a case.

    Attributes:
        case: its name.
        op: its op.
        provokes: what it is made to show.
        status: "pass"; "fail" where the op computed wrongly; "error" where it raised; "unknown" where the case could
            not be judged; "skipped" where there is nothing to judge.
        seconds: wall-clock time, compiling included.
        error: the measured error, None where none was measured or where it is not finite.
        limit: the largest error that passes.
        expected: what was to come, where it failed.
        got: what came, or the reason.
    """

    case: str
    op: str
    provokes: str
    status: Status
    seconds: float
    error: float | None = None
    limit: float | None = None
    expected: str = ""
    got: str = ""


def run_case(case: Case, place: Place) -> Record:
    """Run one case; never raises, save for KeyboardInterrupt and SystemExit."""
    start = time.monotonic()
    try:
        _expect_memory(case, place)
        outcome = case.run(place)
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)
    except NotHere as reason:
        return Record(case.name, case.op, case.provokes, "skipped", time.monotonic() - start, got=str(reason))
    except CannotJudge as reason:
        return Record(case.name, case.op, case.provokes, "unknown", time.monotonic() - start, got=str(reason))
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        got = f"{type(error).__name__}: {text}"[:600]
        return Record(case.name, case.op, case.provokes, "error", time.monotonic() - start, got=got)
    finally:
        release(place)
    return Record(
        case.name,
        case.op,
        case.provokes,
        "pass" if outcome.passed else "fail",
        time.monotonic() - start,
        outcome.error if math.isfinite(outcome.error) else None,
        outcome.limit,
        outcome.expected,
        outcome.got,
    )


def release(place: Place) -> None:
    """Give cached memory back, so that a process beside this one may have it."""
    gc.collect()
    if place.device.type == "cuda":
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # after an error that sticks; `is_broken` tells
            return


def is_broken(place: Place) -> bool:
    """Whether the device refuses everything after an error that sticks to the process."""
    if place.device.type != "cuda":
        return False
    try:
        torch.zeros(1, device=place.device).add_(1).item()
        torch.cuda.synchronize(place.device)
    except RuntimeError:
        return True
    return False


def describe(place: Place) -> dict[str, object]:
    """What runs the cases: GPU, its own capability, torch, CUDA, Triton, emulation ('' for none), routes."""
    import triton

    cuda = place.device.type == "cuda"
    properties = torch.cuda.get_device_properties(place.device) if cuda else None
    return {
        "gpu": properties.name if properties else "no GPU: Triton's interpreter",
        "capability": f"{properties.major}.{properties.minor}" if properties else "",
        "memory_gib": round(properties.total_memory / 2**30, 1) if properties else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "triton": triton.__version__,
        "emulated": f"sm{emulated()}" if emulated() else "",
        "triton_override_arch": os.environ.get("TRITON_OVERRIDE_ARCH", ""),
        "routes": route_lines(running_capability(place.device), gluon_support.USABLE),
    }


def _expect_memory(case: Case, place: Place) -> None:
    """Refuse a case for which memory does not suffice, rather than let it take a neighbour's.

    Raises:
        CannotJudge: with what is needed and what is free.
    """
    if place.device.type != "cuda" or not place.full:
        return
    free = torch.cuda.mem_get_info(place.device)[0] / 2**30
    if free < case.gib:
        raise CannotJudge(f"needs {case.gib:.0f} GiB of GPU memory, {free:.1f} GiB are free")
