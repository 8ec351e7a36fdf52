"""The findings of a report for people: in full, or in short, where nothing is said that its layers say already."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsa_doctor.verdict.schema import Backend, Finding, Layer, Status, Verdict

STATUS_STYLES: dict[Status, str] = {
    "pass": "green",
    "warn": "yellow",
    "fail": "bold red",
    "skip": "dim",
    "unknown": "bold yellow",
}
_STATUS_ORDER: dict[Status, int] = {"fail": 0, "unknown": 1, "warn": 2, "skip": 3, "pass": 4}

_SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z]|dsa-doctor's)")
_DOTTED = re.compile(r"\b(?:[A-Za-z_]\w*\.){2,}([A-Za-z_]\w*\.[A-Za-z_]\w*)\b")
_LONGEST_NAME = 40
"""Characters of a dotted name that is shown whole: a longer one would be broken within a word."""
_DENSE = "sparse not supported"
"""vLLM's own words of a backend that no sparse model asks for."""
_BESIDE = 19
"""Columns that status and id take."""
_MOST_LINES = 3
_MOST_EVIDENCE = 3
"""Lines of evidence of what could not be told: there it is all that is known."""


@dataclass(frozen=True)
class Said:
    """What is left to say of the findings of one kind.

    Attributes:
        finding: the first of them.
        text: what no layer's line says.
        evidence: lines of it that are shown.
        more: how many others of the kind say something else.
    """

    finding: Finding
    text: str
    evidence: tuple[str, ...]
    more: int = 0


def layer_line(layer: Layer, findings: Iterable[Finding]) -> str:
    """Return the first sentence of why a layer is not resolved, with the id of the finding that says more."""
    found = _behind(layer, findings)
    first = short_names(_sentences(layer.reason)[0])
    return f"{first} ({found.id})" if found is not None else first


def in_short(verdict: Verdict) -> list[Said]:
    """Return what the layers' lines do not say of what does not pass, the gravest first, each kind once."""
    open_layers = [layer for layer in verdict.layers if layer.state in {"unresolved", "unknown"}]
    known = {_sentences(layer.reason)[0] for layer in open_layers}
    of_layers = {
        found.summary: _sentences(layer.reason)[1:]
        for layer in open_layers
        if (found := _behind(layer, verdict.findings)) is not None
    }
    shown: dict[str, Said] = {}
    for one in in_order(verdict.findings):
        if one.status in {"pass", "skip"}:
            continue
        parts = dict.fromkeys([*_sentences(one.summary), *of_layers.get(one.summary, ())])
        new = [part for part in parts if part not in known]
        known.update(new)
        if new and one.id in shown:
            shown[one.id] = replace(shown[one.id], more=shown[one.id].more + 1)
        elif new:
            most = _MOST_EVIDENCE if one.status == "unknown" else 1
            shown[one.id] = Said(one, " ".join(new), one.evidence[:most])
    return list(shown.values())


def finding_in_full(finding: Finding) -> Table:
    """Return a finding with all of its evidence."""
    body = Text(finding.summary) + _of_the_judge(finding)
    for line in finding.evidence:
        body.append(f"\n- {line}", style="dim")
    return _row(finding, body)


def finding_in_short(said: Said, width: int, *, rows: int = 1) -> Table:
    """Return a finding in a few lines of at most `width` columns.

    Args:
        said: what is left to say.
        width: of the report.
        rows: how many rows a line of evidence may take; a longer one is left to --verbose, unless nothing else tells
            what could not be told.
    """
    room = max(20, width - _BESIDE)
    others = f" And {said.more} more of the kind." if said.more else ""
    lines = _wrapped(Text(short_names(said.text) + others) + _of_the_judge(said.finding), room, _MOST_LINES)
    for line in said.evidence:
        shown = Text(f"- {short_names(line)}", style="dim")
        if said.finding.status == "unknown":
            lines += _wrapped(shown, room, _MOST_LINES)
        elif len(wrapped := _wrapped(shown, room, rows + 1)) <= rows:
            lines += wrapped
    return _row(said.finding, Text("\n").join(lines))


def _wrapped(text: Text, room: int, most: int) -> list[Text]:
    """Return the text in at most so many lines; what is cut off is marked."""
    lines = list(text.wrap(Console(width=room), room))
    if len(lines) > most:
        lines = lines[:most]
        lines[-1].truncate(room - 4)
        lines[-1].rstrip()
        lines[-1].append(" ...")
    return lines


def backends_in_full(backends: Iterable[Backend]) -> Table:
    """Return every backend with vLLM's word on it."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(width=28, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for backend in backends:
        word = Text("  valid" if backend.accepted else "  rejected", style="green" if backend.accepted else "dim")
        grid.add_row(word, backend.name, Text("; ".join(backend.reasons)))
    return grid


def rejected_in_short(backends: Sequence[Backend]) -> str:
    """Return the names of the rejected backends in a sentence; those that serve no sparse model are counted."""
    rejected = [one for one in backends if not one.accepted]
    names = [one.name for one in rejected if _DENSE not in one.reasons]
    dense = len(rejected) - len(names)
    names += [f"{dense} without sparse MLA"] if dense else []
    return f"Rejected backends: {', '.join(names)}." if names else ""


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings about the judged GPU first, the gravest first."""
    return sorted(findings, key=lambda one: (one.judge_only, _STATUS_ORDER[one.status]))


def short_names(text: str) -> str:
    """Return text with long dotted names cut to their last two parts."""
    return _DOTTED.sub(lambda match: match[1] if len(match[0]) > _LONGEST_NAME else match[0], text)


def _behind(layer: Layer, findings: Iterable[Finding]) -> Finding | None:
    """Return the finding whose words a layer's reason begins with."""
    return next(
        (one for one in findings if one.status in {"fail", "unknown"} and layer.reason.startswith(one.summary)), None
    )


def _sentences(text: str) -> list[str]:
    return _SENTENCE.split(text.strip())


def _of_the_judge(finding: Finding) -> Text:
    remark = " (the machine that judges, not the GPU that is judged)" if finding.judge_only else ""
    return Text(remark, style="dim")


def _row(finding: Finding, body: Text) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=9, no_wrap=True)
    grid.add_column(width=6, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(Text(f"  {finding.status.upper()}", style=STATUS_STYLES[finding.status]), finding.id, body)
    return grid
