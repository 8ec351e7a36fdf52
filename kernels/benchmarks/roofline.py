"""One roofline picture per op, from the JSON that benchmark runs wrote.

    PYTHONPATH=kernels python kernels/benchmarks/roofline.py --out docs/images native/*.json sm80/*.json

Arithmetic intensity (FLOP that must be done over bytes that must move) against attained TFLOP/s, under the measured
copy and bf16 ceilings of the first native run of the op. One point a shape; a native point is a filled circle, one of
the sm80 pipeline a hollow square. The top-k counts no FLOP: its picture sets attained GB/s over bytes.

Needs matplotlib: pip install 'dsa-doctor[plots]'.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsa_kernels.bench.record import read_record

Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One picture: its file, its title, which results it shows, and the shape's entry that colours the points."""

    name: str
    title: str
    shows: Callable[[Row], bool]
    coloured_by: str


def _op(op: str, cache: str | None = None) -> Callable[[Row], bool]:
    return lambda row: row["op"] == op and (cache is None or row["shape"].get("cache") == cache)


PICTURES = (
    Picture("sparse-mla-decode", "Sparse MLA decode, bf16 cache", _op("sparse MLA decode", "bf16"), "heads"),
    Picture("sparse-mla-prefill", "Sparse MLA prefill", _op("sparse MLA prefill"), "heads"),
    Picture("sparse-mla-fp8", "Sparse MLA decode, fp8_ds_mla cache", _op("sparse MLA decode", "fp8_ds_mla"), "heads"),
    Picture("ragged-logits", "Indexer logits, ragged", _op("ragged logits"), "heads"),
    Picture("paged-logits", "Indexer logits, paged", _op("paged logits"), "next_n"),
    Picture("top-k", "Top-k", _op("top-k"), "rows"),
)

#: Characters of a line of the heading: they fit even where a browser takes a wider font than the one measured.
_LINE = 80

#: Columns of the legend that fit side by side.
_COLUMNS = 4

#: Distinguishable without red and green.
COLOURS = ("#0072b2", "#e69f00", "#56b4e9", "#cc79a7", "#000000")


def matplotlib_pyplot() -> Any:
    """Return pyplot, drawing to files.

    Raises:
        SystemExit: it is not installed; the message names the extra.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("roofline.py needs matplotlib, an optional extra: pip install 'dsa-doctor[plots]'") from None
    matplotlib.use("svg")
    # The same JSON gives the same file; text stays text, so that it can be searched and read aloud.
    matplotlib.rcParams.update({"svg.hashsalt": "dsa-doctor", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    return pyplot


def rows_of(picture: Picture, records: list[Row]) -> list[tuple[Row, Row]]:
    """(machine, result) of every timed result that the picture shows, native runs first."""
    found = [
        (record["machine"], row)
        for record in records
        for row in record["results"]
        if picture.shows(row) and row["status"] == "ok"
    ]
    return sorted(found, key=lambda one: one[0]["override_arch"] != "")


def draw(picture: Picture, found: list[tuple[Row, Row]], path: Path) -> None:
    """Draw one picture to `path`."""
    pyplot = matplotlib_pyplot()
    machine = found[0][0]
    copy, product = machine["copy_bytes_per_s"], machine["bf16_flop_per_s"]
    counted = all(row["flop"] for _, row in found)
    figure, axes = pyplot.subplots(figsize=(7.2, 5.0), layout="constrained")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(y=0.12)
    abscissae = [row["flop"] / row["moved_bytes"] if counted else row["moved_bytes"] for _, row in found]
    left, right = min(abscissae) / 2, max(abscissae) * 2
    if counted:
        ridge = product / copy
        left, right = min(left, ridge / 3), max(right, ridge * 2)
        axes.plot(
            [left, ridge, right], [left * copy / 1e12, product / 1e12, product / 1e12], color="0.35", linewidth=1.5
        )
        axes.annotate(f"bf16 product {product / 1e12:.0f} TFLOP/s", (right, product / 1e12), ha="right", va="bottom")
        middle = (left * ridge) ** 0.5
        # Above the roof, where no point can be.
        axes.annotate(f"copy {copy / 1e12:.2f} TB/s  ", (middle, middle * copy / 1e12), ha="right", va="bottom")
        axes.set_xlabel("FLOP per byte")
        axes.set_ylabel("TFLOP/s")
    else:
        axes.plot([left, right], [copy / 1e9, copy / 1e9], color="0.35", linewidth=1.5)
        axes.annotate(f"copy {copy / 1e12:.2f} TB/s", (left, copy / 1e9), ha="left", va="bottom")
        axes.set_xlabel("bytes read and written")
        axes.set_ylabel("GB/s")
    keys = sorted({row["shape"][picture.coloured_by] for _, row in found})
    # Column by column, as the legend is filled.
    for index, key in enumerate(keys):
        for emulated in (False, True):
            points = [
                (x, row["tflop_per_s"] if counted else row["gb_per_s"])
                for x, (ran_on, row) in zip(abscissae, found, strict=True)
                if (ran_on["override_arch"] != "") == emulated and row["shape"][picture.coloured_by] == key
            ]
            if points:
                colour = COLOURS[index % len(COLOURS)]
                pipeline = next(
                    ran_on["override_arch"] for ran_on, _ in found if (ran_on["override_arch"] != "") == emulated
                )
                axes.plot(
                    *zip(*points, strict=True),
                    linestyle="none",
                    marker="s" if emulated else "o",
                    markersize=5,
                    color=colour,
                    markerfacecolor="none" if emulated else colour,
                    label=f"{picture.coloured_by} {key}, {f'{pipeline} pipeline' if emulated else 'native'}",
                )
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        # A whole decade is labelled by its powers of ten; within less than one only 2, 3 and 5 have room.
        powers = math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
        axis.set_minor_formatter(pyplot.NullFormatter() if powers > 1 else pyplot.FuncFormatter(_few))
    # From the left edge of the picture and in lines of its width: what does not fit into a line is not cut.
    heading = "\n".join(line for text in (picture.title, *subtitle(found)) for line in textwrap.wrap(text, _LINE))
    figure.suptitle(heading, fontsize=9, x=0.02, ha="left")
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)
    # Below the axes: inside it would cover the roof or points.
    columns = len(keys) if len(keys) <= _COLUMNS else 3
    figure.legend(fontsize=7, loc="outside lower center", ncols=columns)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _few(value: float, _position: int) -> str:
    """Label of a minor tick: 2, 3 and 5 of each decade alone."""
    return f"{value:g}" if round(value / 10 ** math.floor(math.log10(value))) in {2, 3, 5} else ""


def subtitle(found: list[tuple[Row, Row]]) -> list[str]:
    """GPU and software of the points, and an emulated pipeline by its name: a line each."""
    machines = [machine for machine, _ in found]
    names = dict.fromkeys(f"{one['gpu']}, torch {one['torch']}, Triton {one['triton']}" for one in machines)
    emulated = dict.fromkeys(one["pipeline"] for one in machines if one["override_arch"])
    return [*names, *(f"hollow: {pipeline}" for pipeline in emulated)]


def main() -> int:
    """Draw every op that the files hold; 1 when they hold none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, metavar="JSON", help="files that --json wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    options = parser.parse_args()
    try:
        records = [read_record(path) for path in options.records]
    except ValueError as error:
        sys.exit(f"roofline.py: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for picture in PICTURES:
        found = rows_of(picture, records)
        if found:
            path = options.out / f"roofline-{picture.name}.svg"
            draw(picture, found, path)
            print(f"{path}: {len(found)} shapes")
            drawn += 1
    if not drawn:
        print("roofline.py: no timed result in these files", file=sys.stderr)
    return int(not drawn)


if __name__ == "__main__":
    sys.exit(main())
