"""`dsa-doctor models` and `dsa-doctor targets`."""

import json
from typing import Annotated, Literal

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.output import console, print_data

_FORMAT = typer.Option("--format", "-f", help="How to print the list.")


def models(output_format: Annotated[Format, _FORMAT] = Format.HUMAN) -> None:
    """List the DSA models known by name, with their geometry."""
    from dsa_doctor.catalog.models import KNOWN_MODELS
    from dsa_doctor.planner.storage import storage_of
    from dsa_doctor.render.human import show

    geometries = [known.geometry() for known in KNOWN_MODELS]
    if output_format is Format.JSON:
        print_data(json.dumps([one.model_dump() for one in geometries], indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("MODEL", "FROM", "LAYERS", "KV ROW", "INDEXER", "TOP-K", "WEIGHTS"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in {"MODEL", "FROM", "WEIGHTS"} else "right")
    for one in geometries:
        table.add_row(
            one.name,
            (one.hub_id or "").partition("/")[0],
            str(one.num_hidden_layers),
            f"{one.head_size - one.qk_rope_head_dim}+{one.qk_rope_head_dim}",
            f"{one.index_n_heads}x{one.index_head_dim}",
            str(one.index_topk),
            storage_of(one).name,
        )
    show(console(at_least=80), table)  # names are to be typed, and a narrower table would cut them


def targets(output_format: Annotated[Format, _FORMAT] = Format.HUMAN) -> None:
    """List the GPUs that --target knows."""
    from dsa_doctor.catalog.capability import shared_memory_per_block
    from dsa_doctor.catalog.targets import KNOWN_GPUS
    from dsa_doctor.render.human import show

    if output_format is Format.JSON:
        rows = [
            {
                "alias": gpu.alias,
                "name": gpu.name,
                "aliases": list(gpu.others),
                "capability": str(gpu.capability),
                "memory_gib": gpu.memory_gib,
                "memory_source": gpu.memory_source or None,
                "shared_memory_per_block": shared_memory_per_block(gpu.capability),
            }
            for gpu in KNOWN_GPUS
        ]
        print_data(json.dumps(rows, indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("TARGET", "GPU", "SM", "MEMORY", "SHARED/BLOCK"):
        justify: Literal["left", "right"] = "left" if heading in {"TARGET", "GPU"} else "right"
        table.add_column(heading, no_wrap=heading != "GPU", justify=justify)
    for gpu in KNOWN_GPUS:
        table.add_row(
            gpu.alias,
            gpu.name,
            str(gpu.capability),
            f"{gpu.memory_gib:.2f} GiB" if gpu.memory_gib else "not known",
            f"{shared_memory_per_block(gpu.capability):,} B",
        )
    out = console()
    show(out, table)
    # Below the table: these are to be typed, and a column would cut the longest of them.
    show(out, Text("\nOther spellings"))
    for gpu in KNOWN_GPUS:
        if gpu.others:
            show(out, Padding(Text(f"{gpu.alias}: {', '.join(gpu.others)}", overflow="fold"), (0, 0, 0, 2)))
