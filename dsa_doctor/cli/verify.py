"""`dsa-doctor verify`."""

from typing import Annotated

import typer

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.output import console, fail_usage, print_data

#: Exit status when a kernel does not compile or does not fit.
EXIT_NOT_VERIFIED = 3


def verify(
    target: Annotated[str, typer.Option("--target", "-t", help="Compute capability to compile for: sm80, sm86, …")],
    output_format: Annotated[Format, typer.Option("--format", "-f", help="How to print the table.")] = Format.HUMAN,
) -> None:
    """Compile every kernel for a target, without a GPU, and show registers, spills and shared memory."""
    from dsa_doctor.verify import as_human, as_json, verify_target

    try:
        table = verify_target(target)
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
