"""Standard output, standard error and exit codes, as every command uses them."""

import os
import sys
from typing import NoReturn

import typer
from rich.console import Console

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_OUTPUT = 74
"""Standard output could not be written; EX_IOERR of sysexits.h. No sum of the layers' bits is 74 (64 is none)."""

_NARROWEST = 60
"""Columns for which the reports are laid out at least: a narrower terminal, or one that says 0, breaks lines itself."""


def console(*, stderr: bool = False, at_least: int = _NARROWEST) -> Console:
    """Return a console for people's text.

    Characters that the terminal's encoding lacks are replaced rather than raised; NO_COLOR, FORCE_COLOR and TERM=dumb
    are respected. Without a terminal the width is COLUMNS, or 100; it is never below `at_least`.
    """
    stream = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    made = Console(
        file=stream, width=width, highlight=False, soft_wrap=False, no_color="NO_COLOR" in os.environ or None
    )
    made.width = max(made.width, at_least)
    return made


def print_data(text: str) -> None:
    """Write machine-readable text to standard output, and nothing else."""
    sys.stdout.write(text)
    sys.stdout.flush()


def fail_usage(message: str) -> NoReturn:
    """Report wrong usage on standard error and exit 2."""
    sys.stderr.write(f"dsa-doctor: {message}\n")
    raise typer.Exit(EXIT_USAGE)
