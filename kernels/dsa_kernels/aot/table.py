"""The whole table for a target, compiled in child processes and returned as plain data.

The caller needs no Triton of its own, and its environment (interpreter mode, an overridden architecture) does not
reach the children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from dsa_kernels.aot.compile import MISLEADING_ENVIRONMENT, CompiledReport


@dataclass(frozen=True)
class TableRow:
    """One row of the table, as plain data. Attributes as in `CompiledReport`, with the variant flattened."""

    op: str
    variant: str
    kernel: str
    capability: int
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    shared_limit: int
    copies_ok: bool
    ok: bool
    reason: str

    @classmethod
    def of(cls, report: CompiledReport) -> TableRow:
        """Flatten a report."""
        variant = report.variant
        return cls(
            op=variant.op,
            variant=variant.name,
            kernel=str(getattr(variant.kernel, "__name__", "")),
            capability=report.capability,
            num_warps=variant.num_warps,
            num_stages=variant.num_stages,
            registers=report.registers,
            spill_bytes=report.spill_bytes,
            shared_bytes=report.shared_bytes,
            shared_limit=report.shared_limit,
            copies_ok=report.copies_ok,
            ok=report.ok,
            reason=report.reason,
        )


class TableError(RuntimeError):
    """A child process did not deliver its part of the table."""


def _child_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in MISLEADING_ENVIRONMENT}
    package_root = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(part for part in (package_root, kept.get("PYTHONPATH", "")) if part)
    return kept


Runner = Callable[[list[str], dict[str, str]], tuple[int, str, str]]
"""Runs a command with an environment, and returns its exit status, standard output and standard error."""


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


def _run_part(capability: int, part: int, parts: int, op: str | None, run: Runner) -> list[tuple[int, TableRow]]:
    command = [sys.executable, "-m", "dsa_kernels.aot", str(capability), "--part", str(part), "--of", str(parts)]
    if op is not None:
        command += ["--op", op]
    status, stdout, stderr = run(command, _child_environment())
    if status != 0:
        tail = stderr.strip().splitlines()[-1:] or ["no message"]
        raise TableError(f"compiling for sm{capability} failed to start: {tail[0]}")
    entries = json.loads(stdout.splitlines()[-1])
    return [(entry.pop("position"), TableRow(**entry)) for entry in entries]


def compile_table(
    capability: int, jobs: int | None = None, op: str | None = None, run: Runner = _run
) -> list[TableRow]:
    """Compile every default variant for `capability` (80 means 8.0) and return its row.

    Args:
        capability: the target times ten.
        jobs: child processes, by default one per CPU and at most 8.
        op: only this op.
        run: runs the child processes; a caller that must be able to end them gives its own.

    Raises:
        TableError: when a child could not run at all (Triton missing, say). A variant that does not compile is a row.
    """
    parts = jobs or min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(parts) as pool:
        found = [
            entry
            for rows in pool.map(lambda part: _run_part(capability, part, parts, op, run), range(parts))
            for entry in rows
        ]
    return [row for _, row in sorted(found, key=lambda entry: entry[0])]


def rows_as_json(capability: int, part: int, parts: int, op: str | None) -> str:
    """Compile one part of the table in this process; one line of JSON (what the child prints)."""
    from dsa_kernels.aot.compile import all_variants, compile_variant

    chosen = [variant for variant in all_variants(capability) if op is None or variant.op == op]
    entries = [
        asdict(TableRow.of(compile_variant(variant, capability))) | {"position": position}
        for position, variant in enumerate(chosen)
        if position % parts == part
    ]
    return json.dumps(entries)
