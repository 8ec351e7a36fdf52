"""Compile every kernel for a target with Triton's own compiler and judge what came out; no GPU is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rich.table import Table as RichTable

from dsa_doctor.processes.child import run

_LARGEST_TABLE = 16 << 20


@dataclass(frozen=True)
class Row:
    """One kernel variant on the target; byte counts are per thread (spills) and per program (shared memory)."""

    op: str
    variant: str
    kernel: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    shared_limit: int
    ok: bool
    reason: str


@dataclass(frozen=True)
class Table:
    """Every default variant on one target. `error` says why nothing could be compiled at all."""

    target: str
    rows: tuple[Row, ...]
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether every variant compiles and fits; a table without rows is no proof."""
        return not self.error and bool(self.rows) and all(row.ok for row in self.rows)


def verify_target(target: str, compile_table: Callable[[int], list[object]] | None = None) -> Table:
    """Compile the default variants of every op for `target`.

    Args:
        target: 'sm80', '8.0' or the like.
        compile_table: replaces `dsa_kernels.aot.table.compile_table` (for tests).

    Raises:
        ValueError: for a target that the kernels do not know; the message names the known ones.
    """
    from dsa_kernels.targets import parse_target

    capability = parse_target(target)
    name = f"sm{capability}"
    try:
        from dsa_kernels.aot.table import compile_table as compile_all

        found = compile_table(capability) if compile_table else compile_all(capability, run=_run)
    except (ImportError, RuntimeError, OSError) as error:
        return Table(name, (), f"{type(error).__name__}: {error}")
    return Table(name, tuple(Row(**{key: getattr(row, key) for key in Row.__dataclass_fields__}) for row in found))


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Compile in a child that ends with this process."""
    ended = run(command, timeout=None, environment=environment, keep_stdout=_LARGEST_TABLE)
    stderr = ended.stderr.decode("utf-8", "replace") or ended.problem
    return int(bool(ended.problem)), ended.stdout.decode("utf-8", "replace"), stderr


def as_json(table: Table) -> str:
    """The table as one JSON object: target, ok, error, rows."""
    whole = {"target": table.target, "ok": table.ok, "error": table.error, "rows": [asdict(row) for row in table.rows]}
    return json.dumps(whole, indent=2) + "\n"


def as_human(table: Table) -> tuple[RichTable, str]:
    """The table for people, and the sentence under it."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading in ("KERNEL", "VARIANT"):
        shown.add_column(heading, overflow="fold")
    for heading in ("REGISTERS", "SPILLS", "SHARED MEMORY"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("VERDICT", overflow="fold")
    for row in table.rows:
        shown.add_row(
            row.kernel,
            row.variant,
            str(row.registers),
            str(row.spill_bytes),
            f"{row.shared_bytes:,} B",
            "ok" if row.ok else row.reason,
        )
    bad = sum(not row.ok for row in table.rows)
    if table.error:
        return shown, f"{table.target}: nothing could be compiled: {table.error}"
    if bad or not table.rows:
        return shown, f"{table.target}: {bad} of {len(table.rows)} kernel variants do not compile or do not fit."
    limit = table.rows[0].shared_limit
    return shown, (
        f"{table.target}: all {len(table.rows)} kernel variants compile, without spills, within {limit:,} B of shared "
        "memory. This is a check of compiled code; nothing ran."
    )
