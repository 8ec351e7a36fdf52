"""`dsa-doctor check`."""

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dsa_doctor.cli.output import console, fail_usage, print_data


class Format(str, Enum):
    """Output formats."""

    HUMAN = "human"
    JSON = "json"


def check(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A known model (see `dsa-doctor models`), a folder, a config.json, or a Hub id. [default: GLM-5-FP8]"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="A GPU (a100, 4090, ...), sm80 or 8.0. [default: this machine's GPUs]"),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel-size", "-tp", min=1, help="Ranks that share the heads. [default: visible GPUs, or 8]"
        ),
    ] = None,
    kv_cache_dtype: Annotated[
        str, typer.Option("--kv-cache-dtype", help="As for vLLM: auto, bfloat16, fp8, fp8_ds_mla, ...")
    ] = "auto",
    attention_backend: Annotated[
        str | None, typer.Option("--attention-backend", help="A backend by name: it works, or the layer is unresolved.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option("--facts", help="Judge a file made by `dsa-doctor facts`, instead of this machine.")
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", "-f", help="How to print the verdict.")] = Format.HUMAN,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also the evidence of what passed.")] = False,
) -> None:
    """Say whether a DSA model runs on a GPU, layer by layer, and why.

    Exit code: 0 all resolved; 4, 8, 16 added for unresolved layers 1 csrc, 2 attention, 3 indexer; 32 could not be
    determined; 2 wrong usage.
    """
    from dsa_doctor.preflight import (
        Options,
        UsageError,
        plugin_mode_from,
        preflight,
    )  # pydantic and the probes: not for --help
    from dsa_doctor.render.human import print_verdict
    from dsa_doctor.render.json import render_json

    try:
        options = Options(
            target=target,
            tensor_parallel_size=tensor_parallel_size,
            kv_cache_dtype=kv_cache_dtype,
            backend=attention_backend,
            plugin_mode=plugin_mode_from(os.environ.get("DSA_DOCTOR_PLUGIN")),
        )
        verdict = preflight(model, options, facts_file=facts)
    except UsageError as error:
        fail_usage(str(error))
    if output_format is Format.JSON:
        print_data(render_json(verdict))
    else:
        print_verdict(console(), verdict, verbose=verbose)
    raise typer.Exit(verdict.exit_code)
