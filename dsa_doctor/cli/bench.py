"""`dsa-doctor bench`."""

import sys
from typing import Annotated

import typer

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.completion import complete_dtype, complete_model
from dsa_doctor.cli.output import fail_usage, print_data
from dsa_doctor.cli.verify import emulate_or_fail


def bench(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="As for `check`: a known model, a folder, a config.json or a Hub id. [default: GLM-5-FP8]",
            show_default=False,
        ),
    ] = "GLM-5-FP8",
    tensor_parallel_size: Annotated[
        int, typer.Option("--tensor-parallel-size", "-tp", metavar="N", min=1, help="Ranks that share the heads.")
    ] = 8,
    kv_cache_dtype: Annotated[
        str,
        typer.Option(
            "--kv-cache-dtype", metavar="DTYPE", autocompletion=complete_dtype, help="auto, bfloat16 or fp8_ds_mla."
        ),
    ] = "auto",
    speculative_tokens: Annotated[
        int,
        typer.Option(
            "--speculative-tokens", metavar="N", min=0, max=7, help="Draft tokens of a decode step: next_n less one."
        ),
    ] = 0,
    context: Annotated[
        int, typer.Option("--context", metavar="TOKENS", min=1, help="Tokens of each request in the cache.")
    ] = 32768,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size", "-b", metavar="N", min=1, help="Requests of a decode step; repeatable. [default: 1, 16, 64]"
        ),
    ] = None,
    prefill_tokens: Annotated[
        int,
        typer.Option(
            "--prefill-tokens",
            metavar="TOKENS",
            min=1,
            help="Query tokens of a prefill chunk, at the end of the context.",
        ),
    ] = 4096,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="Measure attention and paged logits also as DSA_DOCTOR_BATCH_INVARIANT=1 serves them.",
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Batches 1 and 64 unless named, and a quarter of the samples.")
    ] = False,
    emulate: Annotated[
        str | None,
        typer.Option(
            "--emulate",
            metavar="TARGET",
            help="Measure code for an older GPU on this one: PTX whose own target is a100, sm80, 8.6, ...",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", "-f", help="How to print the report.")] = Format.HUMAN,
) -> None:
    """Measure every op on this GPU at a model's shapes: time, rates, and the share of the measured floor.

    A speed is printed only where the result of that very shape agrees with the reference.

    Exit code: 0 every result is right; 3 one is wrong or did not run; 2 wrong usage or no GPU to measure.
    """
    from dsa_doctor.bench import BenchError, Load, setting_of
    from dsa_doctor.bench.gather import gather, require_gpu
    from dsa_doctor.bench.render import as_human, as_json
    from dsa_doctor.catalog.lookup import UnknownModelError, find_geometry

    if emulate is not None:
        emulate_or_fail(emulate)
    load = Load(
        tensor_parallel_size=tensor_parallel_size,
        kv_cache_dtype=kv_cache_dtype,
        speculative_tokens=speculative_tokens,
        context=context,
        batch_sizes=tuple(batch_size or ((1, 64) if quick else (1, 16, 64))),
        prefill_tokens=prefill_tokens,
        batch_invariant=batch_invariant,
    )
    try:
        setting = setting_of(find_geometry(model), load)
        require_gpu()
        report = gather(setting, quick=quick, progress=_say if sys.stderr.isatty() else None)
    except (BenchError, UnknownModelError) as error:
        fail_usage(str(error))
    print_data(as_json(report) if output_format is Format.JSON else as_human(report))
    raise typer.Exit(report.exit_code)


def _say(text: str) -> None:
    """Tell a person who waits what is measured now."""
    sys.stderr.write(f"dsa-doctor: {text}\n")
    sys.stderr.flush()
