"""The table of each target, compiled once in a test run: every default variant, in a child process."""

from dataclasses import asdict

from dsa_kernels.aot.table import TableRow, compile_table
from tests.once import Once


def compiled_rows(once: Once, capability: int) -> list[TableRow]:
    """Every row of the table of `capability` (80 means 8.0)."""
    rows = once(f"table-sm{capability}", lambda: [asdict(row) for row in compile_table(capability, jobs=1)])
    return [TableRow(**row) for row in rows]
