"""Render: the self-test's report for people, as it fills and at its end, and as JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Any

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.verify.judge import BAD, Judged, Report

WIDTH = 80
_WORDS = {
    "pass": "ok",
    "fail": "FAILED",
    "error": "ERROR",
    "crash": "CRASHED",
    "unknown": "unknown",
    "skipped": "skipped",
}
_RESULT, _OP, _CASE, _ERROR, _SECONDS = 8, 15, 41, 9, 7


def machine_lines(machine: dict[str, Any], driver: str | None, quick: bool) -> list[str]:
    """What runs the self-test, above the table."""
    if not machine:
        return ["No process of the self-test came up."]
    about = [str(machine["gpu"])]
    if machine["capability"]:
        about.append(f"compute capability {machine['capability']}")
    if driver:
        about.append(f"driver {driver}")
    versions = f"torch {machine['torch']}, Triton {machine['triton']}"
    if machine["cuda"]:
        versions += f", CUDA {machine['cuda']}"
    lines = [", ".join(about), versions]
    override = machine["triton_override_arch"]
    emulated = machine.get("emulated", "")
    if emulated:
        lines.append(
            f"--emulate {emulated}: PTX whose own target is {emulated}, assembled for this GPU and run on it. "
            f"This is not a run on a GPU of {emulated}."
        )
    elif override:
        lines.append(
            f"TRITON_OVERRIDE_ARCH={override}: Triton compiles as for {override}, and this GPU runs it. "
            f"This is not a run on a GPU of {override}."
        )
    if quick:
        lines.append("--quick: small shapes, which show less.")
    lines += machine.get("routes", ())
    return [part for line in lines for part in textwrap.wrap(line, WIDTH)]


def heading() -> str:
    """The names of the columns."""
    return (f"{'RESULT':{_RESULT}}{'OP':{_OP}}{'CASE':{_CASE}}{'ERROR':>{_ERROR - 1}} {'SECONDS':>{_SECONDS}}").rstrip()


def row_lines(case: Judged) -> list[str]:
    """One case in the table: a line, and more where its name is long."""
    record = case.record
    name = textwrap.wrap(record.case or "(did not start)", _CASE - 2)
    error = "" if record.error is None else f"{record.error:.1e}" if record.error else "0"
    first = (
        f"{_WORDS[record.status]:{_RESULT}}{record.op or record.group:{_OP}}{name[0]:{_CASE}}"
        f"{error:>{_ERROR - 1}} {record.seconds:{_SECONDS}.1f}"
    )
    return [first, *(" " * (_RESULT + _OP + 2) + more for more in name[1:])]


def detail_lines(report: Report) -> list[str]:
    """What went wrong and what is not known, case by case, below the table."""
    lines = []
    for case in report.cases:
        record = case.record
        if record.status == "pass":
            continue
        of = f" [{case.finding}]" if case.finding else ""
        title = f"{_WORDS[record.status]} {record.op or record.group}: {record.case or 'did not start'}{of}"
        body = []
        if record.status == "fail":
            measured = "" if record.error is None else f" (error {record.error:.3g}, limit {record.limit:.3g})"
            body = [f"tests for {record.provokes}", f"expected {record.expected}", f"got {record.got}{measured}"]
        else:
            body = [record.got]
        lines += textwrap.wrap(title, WIDTH, subsequent_indent="  ")
        for line in body:
            lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines


def closing_lines(report: Report) -> list[str]:
    """The verdict in a sentence or two, and what to do."""
    total, skipped = len(report.cases), report.count("skipped")
    bad, unknown = report.count(*BAD), report.count("unknown")
    took = f"in {report.seconds:.0f} s"
    if report.ok:
        text = f"All {report.count('pass')} cases passed {took}"
        lines = [text + (f"; {skipped} skipped." if skipped else ".")]
    elif bad:
        lines = [f"{bad} of {total} cases failed {took}; {unknown} could not be judged, {skipped} were skipped."]
    elif unknown:
        lines = [f"Not verified: {unknown} of {total} cases could not be judged ({took}). Nothing failed."]
    else:
        lines = [f"Not verified: nothing ran ({skipped} of {total} cases were skipped)."]
    for finding in report.findings:
        lines.append(f"{finding}: {FINDINGS_BY_ID[finding].title}. See docs/checks/{finding}.md.")
    return [part for line in lines for part in textwrap.wrap(line, WIDTH)]


def report_json(report: Report, driver: str | None, quick: bool) -> str:
    """The report as one JSON object: ok, machine, seconds, counts, findings, cases."""
    cases = [asdict(case.record) | {"finding": case.finding} for case in report.cases]
    whole = {
        "ok": report.ok,
        "machine": report.machine | {"driver": driver, "quick": quick},
        "seconds": round(report.seconds, 2),
        "counts": {status: report.count(status) for status in _WORDS},
        "findings": list(report.findings),
        "cases": cases,
    }
    return json.dumps(whole, indent=2) + "\n"
