"""The Typer application and its commands."""

import os
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dsa_doctor import __version__
from dsa_doctor.cli.bench import bench
from dsa_doctor.cli.cache import cache
from dsa_doctor.cli.catalog import models, targets
from dsa_doctor.cli.check import check
from dsa_doctor.cli.errors import run
from dsa_doctor.cli.explain import explain
from dsa_doctor.cli.facts import facts
from dsa_doctor.cli.output import EXIT_BUG, EXIT_OUTPUT, EXIT_USAGE
from dsa_doctor.cli.run_model import run_model
from dsa_doctor.cli.streams import OutputLostError, abandon_output, guard_streams
from dsa_doctor.cli.verify import verify

_TYPE = re.compile(r" <(?:str|list\[str\])>")


class Command(TyperCommand):
    """A command whose help shows no Python type behind an argument's name."""

    def get_help(self, ctx: Any) -> str:
        """Return the help; what is taken out leaves blanks, so that columns stay."""
        return _TYPE.sub(lambda match: " " * len(match[0]), super().get_help(ctx))


app = typer.Typer(
    name="dsa-doctor",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would eat the [default: ...] of the help texts
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Says why DeepSeek Sparse Attention models do not run under vLLM on this GPU, and what makes them run.",
)
# Summaries that are whole in the list of commands: Click cuts what it takes from a docstring.
app.command(cls=Command, short_help="Say whether DSA models run on GPUs, layer by layer.")(check)
app.command(cls=Command, short_help="Say what failed in a log; print a finding's page.")(explain)
app.command(cls=Command, short_help="Print what was gathered on this machine.")(facts)
app.command(cls=Command, short_help="List the DSA models known by name.")(models)
app.command(cls=Command, short_help="List the GPUs that --target knows.")(targets)
app.command(cls=Command, short_help="Self-test the ops on this GPU, or compile them.")(verify)
app.command(cls=Command, short_help="Measure every op at a model's shapes.")(bench)
app.command("run-model", cls=Command, short_help="Plan, serve and watch a DSA model.")(run_model)
app.add_typer(cache, name="cache", short_help="Show or clear what is kept between runs.")


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


def _is_somewhere() -> bool:
    """Whether the current folder exists: paths cannot be resolved from one that was removed."""
    try:
        os.getcwd()  # noqa: PTH109 - the question itself
    except OSError:
        return False
    return True


def main() -> None:
    """Run the command line; the exit codes are documented in docs/reference.md."""
    guard_streams()
    try:
        try:
            code = run(app)
        finally:
            sys.stdout.flush()
        sys.exit(code)
    except OutputLostError as error:
        sys.stderr.write(f"dsa-doctor: {error}.\n")
        abandon_output()
        raise SystemExit(EXIT_OUTPUT) from None
    except Exception:
        if not _is_somewhere():
            sys.stderr.write("dsa-doctor: the current folder is gone. Change to one that exists, and run it again.\n")
            raise SystemExit(EXIT_USAGE) from None
        sys.excepthook(*sys.exc_info())  # the traceback, as Python prints it
        sys.stderr.write(
            "dsa-doctor: this is a bug in dsa-doctor, and no verdict: exit code 1. "
            "Please report it with the traceback above and the command.\n"
        )
        raise SystemExit(EXIT_BUG) from None
