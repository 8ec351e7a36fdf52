"""Markdown tables of docs/performance*.md, from the JSON that benchmark runs wrote: no figure is copied by hand.

PYTHONPATH=kernels python kernels/benchmarks/tables.py native/*.json sm80/*.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dsa_kernels.bench.record import read_record

Row = dict[str, Any]
Key = tuple[tuple[str, int | str], ...]


def tables(records: list[Row]) -> str:
    """Every op's table: a line a shape, a column a pipeline, then the peers of the native run."""
    by_op: dict[str, dict[Key, dict[str, Row]]] = {}
    for record in records:
        pipeline = record["machine"]["override_arch"] or "native"
        for row in record["results"]:
            by_op.setdefault(_title(row), {}).setdefault(tuple(row["shape"].items()), {})[pipeline] = row
    parts = [_provenance(records)]
    for title, shapes in by_op.items():
        parts.append(f"### {title}\n\n{_table(shapes)}")
    return "\n\n".join(parts) + "\n"


def _title(row: Row) -> str:
    cache = row["shape"].get("cache")
    name = row["op"][0].upper() + row["op"][1:]
    return f"{name}, {cache} cache" if cache else name


def _provenance(records: list[Row]) -> str:
    lines = []
    for record in records:
        one = record["machine"]
        lines.append(
            f"- {record['benchmark']}: {one['gpu']}, driver {one['driver']}, torch {one['torch']}, Triton "
            f"{one['triton']}, {one['pipeline']}; copy {one['copy_bytes_per_s'] / 1e12:.2f} TB/s, bf16 product "
            f"{one['bf16_flop_per_s'] / 1e12:.0f} TFLOP/s"
        )
    return "\n".join(dict.fromkeys(lines))


def _table(shapes: dict[Key, dict[str, Row]]) -> str:
    pipelines = sorted({name for runs in shapes.values() for name in runs}, key=lambda name: (name != "native", name))
    peers = list(dict.fromkeys(name for runs in shapes.values() for name in runs.get("native", {}).get("peers", {})))
    keys = list(dict.fromkeys(key for shape in shapes for key, _ in shape if key != "cache"))
    heading = [*keys]
    for name in pipelines:
        heading += ["native, µs" if name == "native" else f"{name} pipeline, µs", "of floor"]
    heading += [f"{name}, µs" for name in peers]
    lines = [heading, ["---"] * len(heading)]
    for shape, runs in shapes.items():
        values = dict(shape)
        cells = [_number(values.get(key, "")) for key in keys]
        for name in pipelines:
            cells += _measured(runs.get(name))
        native = runs.get("native", {}).get("peers", {})
        cells += [_peer(native.get(name)) for name in peers]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _microseconds(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _measured(row: Row | None) -> list[str]:
    if row is None:
        return ["", ""]
    timing = row["timing"]
    if timing is None:
        return [f"{row['status']}: {row['message']}", ""]
    spread = f"[{_microseconds(timing['low_us'])}, {_microseconds(timing['high_us'])}]"
    return [f"{_microseconds(timing['median_us'])} {spread}", f"{row['share_of_floor']:.0%}"]


def _peer(peer: Row | None) -> str:
    return _microseconds(peer["timing"]["median_us"]) if peer and peer["timing"] else ""


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, metavar="JSON", help="files that --json wrote")
    try:
        records = [read_record(path) for path in parser.parse_args().records]
    except ValueError as error:
        sys.exit(f"tables.py: {error}")
    print(tables(records), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
