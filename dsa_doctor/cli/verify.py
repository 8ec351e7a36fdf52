"""`dsa-doctor verify`."""

from typing import Annotated

import typer

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.output import console, fail_usage, print_data

EXIT_NOT_VERIFIED = 3
"""Exit status where a kernel does not compile or does not fit."""


def verify(
    target: Annotated[str, typer.Option("--target", "-t", help="The GPU to compile for: a100, 4090, sm80, 8.0, ...")],
    output_format: Annotated[Format, typer.Option("--format", "-f", help="How to print the table.")] = Format.HUMAN,
) -> None:
    """Compile every kernel for a target, without a GPU, and show registers, spills and shared memory.

    Exit code: 0 everything compiles and fits; 3 something does not; 2 wrong usage.
    """
    from dsa_doctor.catalog.targets import target_from_text
    from dsa_doctor.verify import as_human, as_json, verify_target

    try:
        table = verify_target(target_from_text(target).capability.sm)
    except ValueError as error:
        fail_usage(str(error))
    if output_format is Format.JSON:
        print_data(as_json(table))
    else:
        shown, sentence = as_human(table)
        if table.rows:
            console().print(shown)
        console().print(sentence)
    if not table.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)
