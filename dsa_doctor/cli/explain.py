"""`dsa-doctor explain`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.output import console, fail_usage, print_data


def explain(
    log: Annotated[
        str, typer.Argument(help="A vLLM or sglang log, a traceback or a pasted issue; - reads the input.")
    ] = "-",
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="The GPU that the log is from (a100, sm80, 8.0). [default: what it says]"),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option("--facts", help="Facts of the environment that the log is from: would the plugin resolve it?"),
    ] = None,
    output_format: Annotated[
        Format, typer.Option("--format", "-f", help="How to print the explanation.")
    ] = Format.HUMAN,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also every rejected attention backend.")] = False,
) -> None:
    """Say what failed in a log, why, what helps, and what would fail next.

    Exit code: 0 nothing found; 4, 8, 16 added for failures of layers 1 csrc, 2 attention, 3 indexer; 32 only other
    failures; 2 wrong usage or an unreadable file.
    """
    from dsa_doctor.explain import explain as explain_log  # pydantic and the automaton: not for --help
    from dsa_doctor.inputs import UsageError, load_facts, named_target, plugin_mode_from
    from dsa_doctor.render.explain import print_explanation
    from dsa_doctor.render.json import render_json

    if log == "-" and facts == Path("-"):
        fail_usage("LOG and --facts cannot both be -: there is one standard input. Name a file for one of them.")
    try:
        given = load_facts(facts) if facts is not None else None
        named = named_target(target)
        own = plugin_mode_from(os.environ.get("DSA_DOCTOR_PLUGIN"))
        mode = own if given is None else None  # facts hold the settings of the machine that they describe
        if log == "-":
            explanation = explain_log(sys.stdin.buffer, target=named, facts=given, plugin_mode=mode)
        else:
            with Path(log).open("rb") as stream:
                explanation = explain_log(stream, target=named, facts=given, plugin_mode=mode)
    except UsageError as error:
        fail_usage(str(error))
    except OSError as error:
        fail_usage(f"LOG {log}: cannot be read ({error.strerror or type(error).__name__})")
    if output_format is Format.JSON:
        print_data(render_json(explanation))
    else:
        print_explanation(console(), explanation, verbose=verbose)
    raise typer.Exit(explanation.exit_code)
