"""Runs of benchmarks as text and as JSON: the tables and pictures of docs/ are made from the JSON alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsa_kernels.bench.case import Result
from dsa_kernels.bench.machine import Machine

FORMAT = "dsa-kernels-benchmark"
VERSION = 1


def as_record(benchmark: str, machine: Machine, results: Sequence[Result]) -> dict[str, Any]:
    """One run: hardware, software, ceilings, and every result with shape, times, floors, errors and peers."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "benchmark": benchmark,
        "machine": asdict(machine) | {"pipeline": machine.pipeline},
        "results": [one.as_json() for one in results],
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as strict JSON; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        ValueError: the file is no such record; the message names it and says what makes one.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: cannot be read as JSON ({error}). Accepted: what a benchmark's --json wrote."
        ) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("version") != VERSION:
        raise ValueError(f"{path}: no record of a benchmark run, version {VERSION}. Accepted: what --json wrote.")
    return record


def headline(machine: Machine) -> str:
    """Hardware, software, pipeline and ceilings in one line."""
    return (
        f"{machine.gpu} ({machine.capability}), driver {machine.driver}, torch {machine.torch}, "
        f"Triton {machine.triton}, {machine.pipeline}; copy {machine.copy_bytes_per_s / 1e12:.2f} TB/s, "
        f"bf16 product {machine.bf16_flop_per_s / 1e12:.0f} TFLOP/s"
    )


def line(result: Result) -> str:
    """A result as one line of at most about 160 characters; a time only where the gate passed."""
    name = f"{result.op}: " + ", ".join(f"{key} {value}" for key, value in result.shape.items())
    if result.timing is None or result.share is None:
        return f"{result.status.upper():7} {name}: {result.message}"
    peers = ", ".join(
        f"{peer} {one.timing.median_us:.1f} ({one.timing.median_us / result.timing.median_us:.2f}x)"
        if one.timing
        else f"{peer} -"
        for peer, one in result.peers.items()
    )
    error = 0.0 if result.error is None else result.error
    return f"{name:58} {result.timing!s:30} floor {result.share:4.0%} err {error:.0e} {peers}"
