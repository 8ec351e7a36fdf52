"""The report for people: verdict first, then what to do, then the evidence; plain characters, 100 columns."""

import re

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dsa_doctor.verdict.schema import Finding, Layer, State, Verdict

MAX_WIDTH = 100

_TRAILING_BLANKS = re.compile(r" +((?:\x1b\[0m)?)$", re.MULTILINE)

_STATE_STYLES = {
    "native": "bold green",
    "upstream": "bold green",
    "plugin": "bold cyan",
    "unresolved": "bold red",
    "unknown": "bold yellow",
}
STATUS_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim", "unknown": "bold yellow"}
_STATUS_ORDER = {"fail": 0, "unknown": 1, "warn": 2, "skip": 3, "pass": 4}


def show(console: Console, renderable: RenderableType) -> None:
    """Print within the report's width, without the blanks that pad tables: in a ticket they are in the way."""
    with console.capture() as capture:
        console.print(renderable, width=min(console.width, MAX_WIDTH))
    trimmed = _TRAILING_BLANKS.sub(r"\1", capture.get()).removesuffix("\n")
    console.print(Text.from_ansi(trimmed), soft_wrap=True)


def print_verdict(console: Console, verdict: Verdict, *, verbose: bool = False, outcome: str | None = None) -> None:
    """Print the report of one verdict.

    Args:
        console: where to print; its colour and encoding are respected.
        verdict: what to show.
        verbose: also the evidence of what passed, and every rejected backend.
        outcome: the sentence under the layers, where a policy has the last word; None takes the verdict's own.
    """
    show(console, _heading(verdict))
    show(console, Text())
    for layer in verdict.layers:
        show(console, _layer(layer))
    show(console, Text())
    show(console, _conclusion(verdict, outcome or conclusion(verdict)))
    remedies = _remedies(verdict)
    if remedies:
        show(console, Text("\nWhat to do", style="bold"))
        for remedy in remedies:
            show(console, Padding(Text(remedy), (0, 0, 0, 2)))
    shown = sorted(verdict.findings, key=lambda one: _STATUS_ORDER[one.status])
    if shown:
        show(console, Text("\nFindings", style="bold"))
    for finding in shown:
        show(console, _finding(finding, verbose=verbose))
    if verdict.backends and (verbose or any(layer.state == "unresolved" for layer in verdict.layers)):
        show(console, Text("\nAttention backends, in vLLM's order", style="bold"))
        show(console, _backends(verdict))
    if verdict.configuration is not None:
        show(console, Text("\nConfiguration", style="bold"))
        show(console, _configuration(verdict))
    if not verbose and any(one.status == "pass" and one.evidence for one in verdict.findings):
        show(console, Text("\nMore evidence: --verbose. Every finding has a page: docs/checks/<id>.md", style="dim"))


def headline(verdict: Verdict) -> str:
    """Return the verdict in one line."""
    model = verdict.model.name if verdict.model is not None else "no model"
    target = f"{verdict.target.name} ({verdict.target.sm})" if verdict.target is not None else "no GPU"
    return f"{model} on {target}"


def conclusion(verdict: Verdict) -> str:
    """Return the outcome in one sentence, with the exit code."""
    by_state: dict[str, list[str]] = {}
    for layer in verdict.layers:
        by_state.setdefault(layer.state, []).append(f"{layer.number} {layer.layer}")
    if verdict.exit_code == 0:
        return "All three layers are resolved. Exit code 0."
    parts = []
    if "unresolved" in by_state:
        parts.append(f"not resolved: {', '.join(by_state['unresolved'])}")
    if "unknown" in by_state:
        parts.append(f"could not be determined: {', '.join(by_state['unknown'])}")
    if not parts:
        parts.append("the layers are resolved, and something else keeps it from running")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}. Exit code {verdict.exit_code}."


def _heading(verdict: Verdict) -> Text:
    software = verdict.software
    versions = [
        f"vLLM {software.vllm or 'not installed'}",
        f"torch {software.torch or 'not installed'}",
        f"Triton {software.triton or 'not installed'}",
    ]
    text = Text(headline(verdict), style="bold")
    text.append(f"\n{', '.join(versions)}, dsa-doctor {software.dsa_doctor}", style="not bold dim")
    if verdict.model is not None:
        model = verdict.model
        text.append(
            f"\n{model.num_attention_heads} heads, {model.heads_per_rank} per rank; KV row {model.head_size}; "
            f"top-k {model.index_topk}",
            style="not bold dim",
        )
    return text


def state_text(state: State) -> Text:
    """Return a state as reports show it: what is not resolved in capitals, for terminals without colour."""
    return Text(state.upper() if state in {"unresolved", "unknown"} else state, style=_STATE_STYLES[state])


def _layer(layer: Layer) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=11, no_wrap=True)
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(f"{layer.number} {layer.layer}", state_text(layer.state), Text(layer.reason))
    return grid


def _conclusion(verdict: Verdict, sentence: str) -> Text:
    return Text(sentence, style="bold green" if verdict.exit_code == 0 else "bold red")


def _remedies(verdict: Verdict) -> list[str]:
    """Return the remedies of what does not pass, once each, the gravest finding's first."""
    urgent = sorted(verdict.findings, key=lambda one: _STATUS_ORDER[one.status])
    remedies = [remedy for one in urgent if one.status != "pass" for remedy in one.remedy]
    return list(dict.fromkeys(remedies))


def _finding(finding: Finding, *, verbose: bool) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=9, no_wrap=True)
    grid.add_column(width=6, no_wrap=True)
    grid.add_column(ratio=1)
    body = Text(finding.summary)
    if verbose or finding.status not in {"pass", "skip"}:
        for line in finding.evidence:
            body.append(f"\n- {line}", style="dim")
    status = Text(f"  {finding.status.upper()}", style=STATUS_STYLES[finding.status])
    grid.add_row(status, finding.id, body)
    return grid


def _backends(verdict: Verdict) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(width=28, no_wrap=True)
    grid.add_column(ratio=1)
    for backend in verdict.backends:
        word = Text("  valid" if backend.accepted else "  rejected", style="green" if backend.accepted else "dim")
        grid.add_row(word, backend.name, Text("; ".join(backend.reasons)))
    return grid


def _configuration(verdict: Verdict) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=22, no_wrap=True)
    grid.add_column(ratio=1)
    configuration = verdict.configuration
    if configuration is None:
        return grid
    rows = {
        "attention backend": configuration.attention_backend,
        "KV cache dtype": configuration.kv_cache_dtype,
        "block size": str(configuration.block_size or "vLLM's default"),
        **configuration.fallbacks,
    }
    for name, value in rows.items():
        grid.add_row(f"  {name}", value)
    return grid
