"""The report as GitHub-flavoured Markdown, for a step summary, a merge request or an issue."""

import re
from collections.abc import Iterable

from dsa_doctor.policy.report import GatedVerdict, Report
from dsa_doctor.render.human import kept_line
from dsa_doctor.render.steps import todo_lines
from dsa_doctor.render.wording import (
    by_gravity,
    case_answer,
    case_conclusion,
    case_title,
    clean,
    documentation_of,
    finding_of,
    policy_lines,
    report_conclusion,
    subject,
    versions,
)

MAX_BYTES = 1024 * 1024
"""What $GITHUB_STEP_SUMMARY holds."""

_SPECIAL = re.compile(r"([\\`*_\[\]<>#!|~&$@:])")


def render_markdown(report: Report) -> str:
    """Return the report as Markdown of at most 1 MiB, ended by a newline; details that do not fit are left out."""
    head = ["# dsa-doctor", "", f"**{_text(report_conclusion(report))}**", "", *_table(report), ""]
    tail = [*_policy(report), *_downgrade(report)]
    sections = ["\n".join(_case(case)) for case in report.verdicts if len(report.verdicts) == 1 or case.exit_code]
    left_out = "_Further combinations are left out here; the JSON report has them._\n"
    room = MAX_BYTES - sum(len(line.encode()) + 1 for line in (*head, *tail)) - len(left_out) - 2
    shown: list[str] = []
    for section in sections:
        room -= len(section.encode()) + 1
        if room < 0:
            shown.append(left_out)
            break
        shown.append(section)
    text = "\n".join([*head, *shown, *tail]).rstrip("\n") + "\n"
    return text if len(text.encode()) <= MAX_BYTES else text.encode()[: MAX_BYTES - 1].decode(errors="ignore") + "\n"


def _text(text: str) -> str:
    """Return `text` so that Markdown shows it literally, in a paragraph, a list item or a table cell."""
    return _SPECIAL.sub(r"\\\1", clean(text))


def _block(lines: Iterable[str]) -> list[str]:
    """Return a fenced block; the fence is longer than any run of backticks within."""
    cleaned = [clean(line) for line in lines]
    longest = max((len(run) for line in cleaned for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *cleaned, fence]


def _table(report: Report) -> list[str]:
    environments = any(case.environment is not None for case in report.verdicts)
    headings = [
        "model",
        "GPU",
        *(["environment"] if environments else []),
        "1 csrc",
        "2 attention",
        "3 indexer",
        "exit",
    ]
    rows = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for case in report.verdicts:
        cells = [
            *subject(case),
            *([case.environment or "this environment"] if environments else []),
            *(layer.state for layer in case.layers),
            str(case.exit_code),
        ]
        rows.append("| " + " | ".join(_text(cell) for cell in cells) + " |")
    return rows


def _case(case: GatedVerdict) -> list[str]:
    lines = [
        f"## {_text(f'{case_title(case)}: {case_answer(case)}')}",
        "",
        _text(versions(case)),
        "",
        *([_text(kept), ""] if (kept := kept_line(case)) is not None else []),
        _text(case_conclusion(case)),
        "",
    ]
    lines += ["| layer | state | why |", "| --- | --- | --- |"]
    lines += [f"| {one.number} {one.layer} | {one.state} | {_text(one.reason)} |" for one in case.layers]
    lines.append("")
    steps = todo_lines(case)
    if steps:
        lines += ["### What to do", "", *_block(steps), ""]
    lines += ["### Checks", ""]
    for outcome in by_gravity(case):
        finding = finding_of(case, outcome)
        name = f"[{finding.id}]({documentation_of(finding.id)})" if finding is not None else f"layer {outcome.layer}"
        lines.append(f"- **{outcome.result}** {name}: {_text(outcome.message)}")
        if finding is not None and finding.evidence and outcome.result not in {"pass", "skip"}:
            lines += ["", *(f"  {line}" for line in _block(finding.evidence)), ""]
    lines.append("")
    return lines


def _policy(report: Report) -> list[str]:
    lines = [f"- {_text(line)}" for line in policy_lines(report)]
    return [f"## Policy {_text(report.policy.source or '')}".rstrip(), "", *lines, ""] if lines else []


def _downgrade(report: Report) -> list[str]:
    if not report.policy.downgrade_lines:
        return []
    place = _text(report.policy.downgrade_table)
    return ["## To let this pass, knowingly", "", f"In {place}:", "", *_block(report.policy.downgrade_lines), ""]
