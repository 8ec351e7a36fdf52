"""`dsa-doctor facts`."""

import sys
from typing import Annotated

import typer

from dsa_doctor.cli.cache import NoCache, keeper_for
from dsa_doctor.cli.check import Format
from dsa_doctor.cli.output import console, print_data
from dsa_doctor.cli.status import status


def facts(
    output_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="human is a summary, json everything: what `check --facts` reads. [default: human on a terminal, json "
            "in a file or pipe]",
        ),
    ] = None,
    selector: Annotated[
        bool, typer.Option("--selector/--no-selector", help="Import vLLM and ask its backend selector (the slow part).")
    ] = True,
    no_cache: NoCache = False,
) -> None:
    """Print everything gathered on this machine, to be judged anywhere with `check --facts FILE`.

    No secret, user name or host name is in it, and nothing is sent anywhere.
    """
    from dsa_doctor.preflight import gather_with, query_matrix
    from dsa_doctor.probes.environment import Environment
    from dsa_doctor.render.facts import print_facts
    from dsa_doctor.render.json import render_json

    if output_format is None:
        output_format = Format.HUMAN if sys.stdout.isatty() else Format.JSON
    keeper = keeper_for(no_cache=no_cache)
    with status(human=output_format is Format.HUMAN):
        gathered = gather_with(Environment.current(), query_matrix() if selector else None, keeper=keeper)
    if output_format is Format.JSON:
        print_data(render_json(gathered))
    else:
        print_facts(console(), gathered)
