"""Where the report goes: standard output, the files of --output, and GitHub's step summary."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsa_doctor.cli.output import console, fail_usage
from dsa_doctor.cli.streams import write_file
from dsa_doctor.render.formats import ReportFormat, render

if TYPE_CHECKING:
    from dsa_doctor.policy.report import Report

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class Sink:
    """One file of --output."""

    form: ReportFormat
    path: Path
    given: str


def parse_sinks(texts: Sequence[str]) -> list[Sink]:
    """Return the sinks of --output FORMAT=PATH, their folders made; exits 2 where one cannot be met."""
    sinks: list[Sink] = []
    accepted = ", ".join(one.value for one in ReportFormat)
    for text in texts:
        name, _, path = text.partition("=")
        if not path or name not in {one.value for one in ReportFormat}:
            fail_usage(f"--output {text!r} is not accepted. Accepted: FORMAT=PATH, where FORMAT is one of {accepted}.")
        sink = Sink(ReportFormat(name), Path(path), text)
        if any(other.path.absolute() == sink.path.absolute() for other in sinks):
            fail_usage(f"--output {text}: {path} is named twice; every format needs a file of its own.")
        try:
            sink.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail_usage(_unwritable(sink, error))
        if sink.path.is_dir() or not os.access(sink.path if sink.path.exists() else sink.path.parent, os.W_OK):
            reason = "it is a folder" if sink.path.is_dir() else "permission denied"
            fail_usage(f"--output {text}: cannot be written ({reason}). Name a file in a folder that can be written.")
        sinks.append(sink)
    return sinks


def write_sinks(report: "Report", sinks: Sequence[Sink]) -> None:
    """Write every file; exits 2 where one cannot be written after all."""
    for sink in sinks:
        try:
            write_file(sink.path, _encoded(render(report, sink.form)))
        except OSError as error:
            fail_usage(_unwritable(sink, error))


def write_stdout(report: "Report", form: ReportFormat, *, verbose: bool) -> None:
    """Write the report to standard output: for people, or data alone with people's text on standard error.

    A lone verdict as JSON is complete in itself, so nothing goes to standard error with it.
    """
    from dsa_doctor.render.people import print_closing, print_report

    if form is ReportFormat.HUMAN:
        print_report(console(), report, verbose=verbose)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(_encoded(render(report, form)))
    sys.stdout.buffer.flush()
    if form is not ReportFormat.JSON or not report.plain:
        print_closing(console(stderr=True), report)


def append_step_summary(report: "Report") -> None:
    """Append the markdown report to the file that GitHub names, as far as the step's limit leaves room."""
    from dsa_doctor.render.markdown import MAX_BYTES

    name = os.environ.get(STEP_SUMMARY)
    if not name:
        return
    path = Path(name)
    try:
        room = MAX_BYTES - (path.stat().st_size if path.exists() else 0)
        text = _encoded(render(report, ReportFormat.MARKDOWN))
        if len(text) > room:
            text = b"dsa-doctor: the report does not fit into what is left of this summary.\n"
        if len(text) <= room:
            with path.open("ab") as stream:
                stream.write(text)
    except OSError as error:  # the verdict does not depend on GitHub's page
        sys.stderr.write(f"dsa-doctor: {STEP_SUMMARY} cannot be written ({type(error).__name__}).\n")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _unwritable(sink: Sink, error: OSError) -> str:
    return f"--output {sink.given}: cannot be written ({error.strerror}). Name a file in a folder that can be written."
