"""The Typer application and its commands."""

import sys
from typing import Annotated

import typer

from dsa_doctor import __version__
from dsa_doctor.cli.bench import bench
from dsa_doctor.cli.cache import cache
from dsa_doctor.cli.catalog import models, targets
from dsa_doctor.cli.check import check
from dsa_doctor.cli.explain import explain
from dsa_doctor.cli.facts import facts
from dsa_doctor.cli.output import EXIT_OUTPUT
from dsa_doctor.cli.run_model import run_model
from dsa_doctor.cli.streams import OutputLostError, abandon_output, guard_streams
from dsa_doctor.cli.verify import verify

app = typer.Typer(
    name="dsa-doctor",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would eat the [default: ...] of the help texts
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Says why DeepSeek Sparse Attention models do not run under vLLM on this GPU, and what makes them run.",
)
app.command()(check)
app.command()(explain)
app.command()(facts)
app.command()(models)
app.command()(targets)
app.command()(verify)
app.command()(bench)
app.command("run-model")(run_model)
app.add_typer(cache, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"dsa-doctor {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command line; the exit codes are documented in docs/reference.md."""
    guard_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OutputLostError as error:
        sys.stderr.write(f"dsa-doctor: {error}.\n")
        abandon_output()
        raise SystemExit(EXIT_OUTPUT) from None
