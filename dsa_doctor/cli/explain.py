"""`dsa-doctor explain`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.completion import complete_finding, complete_target
from dsa_doctor.cli.output import console, fail_usage, print_data
from dsa_doctor.cli.typed import plugin_mode_of_environment


def explain(
    log: Annotated[
        str,
        typer.Argument(
            metavar="LOG|FINDING",
            autocompletion=complete_finding,
            help="A vLLM or sglang log, a traceback or a pasted issue, also gz, bz2, xz or zst; - reads the input. Or "
            "a finding such as DSA301: its page.",
        ),
    ] = "-",
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="GPU",
            autocompletion=complete_target,
            help="The GPU that the log is from (a100, sm80, 8.0). [default: what it says]",
        ),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(
            "--facts",
            metavar="FILE",
            help="Facts of the environment that the log is from: would the plugin resolve it?",
        ),
    ] = None,
    output_format: Annotated[
        Format, typer.Option("--format", "-f", help="How to print the explanation.")
    ] = Format.HUMAN,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also every reason of every rejected attention backend.")
    ] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Print the log itself, without secrets and names, and explain nothing.")
    ] = False,
) -> None:
    """Say what failed in a log, why, what helps, and what would fail next; or print the page of a finding.

    Exit code: 0 no failure; 4, 8, 16 added for failures of layers 1 csrc, 2 attention, 3 indexer; 32 only other
    failures, known or not; 2 wrong usage, or a file that is no log.
    """
    from dsa_doctor.catalog.pages import names_a_finding

    if names_a_finding(log) and not Path(log).exists():
        _print_page(log, as_json=output_format is Format.JSON)
        return
    from dsa_doctor.explain import explain as explain_log  # pydantic and the automaton: not for --help
    from dsa_doctor.explain.source import NotALogError
    from dsa_doctor.inputs import UsageError, load_facts, named_target
    from dsa_doctor.reading import one_line
    from dsa_doctor.render.explain import print_explanation
    from dsa_doctor.render.json import render_json

    if log == "-" and facts == Path("-"):
        fail_usage("LOG and --facts cannot both be -: there is one standard input. Name a file for one of them.")
    try:
        given = load_facts(facts) if facts is not None else None
        named = named_target(target)
        own = plugin_mode_of_environment()
        mode = own if given is None else None  # facts hold the settings of the machine that they describe
        with _opened(log) as stream:
            if redact:
                _print_redacted(stream)
                return
            explanation = explain_log(stream, target=named, facts=given, plugin_mode=mode)
    except UsageError as error:
        fail_usage(str(error))
    except NotALogError as error:
        fail_usage(f"LOG {one_line(log)}: this is {error}. A log is text, plain or packed by gzip, bzip2, xz or zstd.")
    except BrokenPipeError:  # the reader of --redact has seen enough: that is no fault of the log
        raise
    except OSError as error:
        fail_usage(f"LOG {one_line(log)}: cannot be read ({error.strerror or type(error).__name__})")
    if output_format is Format.JSON:
        print_data(render_json(explanation))
    else:
        print_explanation(console(), explanation, verbose=verbose)
    raise typer.Exit(explanation.exit_code)


def _print_page(finding_id: str, *, as_json: bool) -> None:
    """Print the page of a finding: laid out on a terminal, as Markdown elsewhere, or as a JSON object that holds it."""
    from dsa_doctor.catalog.findings import FINDINGS_BY_ID, KNOWN_FINDINGS
    from dsa_doctor.catalog.pages import page_of

    page = page_of(finding_id)
    if page is None:
        ids = ", ".join(one.id for one in KNOWN_FINDINGS)
        fail_usage(f"{finding_id} is neither a finding nor a file. Findings: {ids}.")
    if as_json:
        known = FINDINGS_BY_ID[finding_id.strip().upper()]
        fields = {"id": known.id, "layer": known.layer, "title": known.title, "page": page}
        print_data(json.dumps(fields, indent=2) + "\n")
        return
    if not sys.stdout.isatty():
        print_data(page)
        return
    from rich.markdown import Markdown

    from dsa_doctor.render.human import show

    show(console(), Markdown(page))


@contextmanager
def _opened(log: str) -> Iterator[BinaryIO]:
    """Yield the log's bytes; a terminal is told that it is waited for."""
    if log != "-":
        with Path(log).open("rb") as stream:
            yield stream
        return
    if sys.stdin.isatty():
        sys.stderr.write("dsa-doctor: reading the log from the terminal: paste it, then press Ctrl-D on a new line.\n")
    yield sys.stdin.buffer


def _print_redacted(stream: BinaryIO) -> None:
    from dsa_doctor.explain.source import Source
    from dsa_doctor.redaction.stream import Redactor

    for piece in Redactor().stream(Source(stream).blocks()):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
