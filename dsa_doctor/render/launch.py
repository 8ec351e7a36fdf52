"""A launch as it goes on, for people: everything on standard error, because standard output is the server's."""

import json
import sys
from contextlib import suppress

from rich.console import Console

from dsa_doctor.launch.conditions import Condition
from dsa_doctor.launch.outlets import write_all
from dsa_doctor.launch.prepare import Prepared
from dsa_doctor.launch.stages import Stage
from dsa_doctor.launch.watch import Outcome
from dsa_doctor.planner.plan import Plan
from dsa_doctor.render.plan import print_conditions, stage_line, summary_lines


class LaunchNarrator:
    """Writes what `launch.run` tells, one line a thing."""

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose

    def note(self, text: str) -> None:
        """Write one line of dsa-doctor's own."""
        self._write(f"dsa-doctor: {text}\n")

    def _write(self, text: str) -> None:
        sys.stderr.flush()
        with suppress(OSError):  # full, or its reader gone
            write_all(2, text.encode(sys.stderr.encoding or "utf-8", "replace"))

    def conditions(self, conditions: list[Condition]) -> None:
        """Show what was looked at on this machine before the start."""
        with self._console.capture() as capture:
            print_conditions(self._console, conditions, verbose=self._verbose)
        self._write(capture.get())

    def stage(self, stage: Stage, seconds: float) -> None:
        """Write that a stage of the start begins."""
        self.note(stage_line(stage, seconds))

    def ready(self, outcome: Outcome, url: str, plan: Plan) -> None:
        """Write the summary of a server that is ready."""
        for line in summary_lines(outcome, url, plan):
            self.note(line)


def render_prepared(prepared: Prepared) -> str:
    """Return a prepared launch as JSON: the document of `run-model --dry-run --format json`."""
    content = {
        "verdict": prepared.verdict.model_dump(mode="json"),
        "plan": prepared.plan.model_dump(mode="json"),
        "shapes": [{"what": one.what, "cost": one.cost} for one in prepared.shapes],
        "flags": [one.model_dump(mode="json") for one in prepared.flags],
        "environment": [one.model_dump(mode="json") for one in prepared.variables],
        "warnings": list(prepared.warnings),
        "left_out": prepared.left_out,
        "command": list(prepared.command),
    }
    return json.dumps(content, indent=2) + "\n"
