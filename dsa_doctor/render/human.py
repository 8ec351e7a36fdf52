"""The report for people: answer first, then what to do, then why; plain characters, at most 100 columns."""

import re
from datetime import timezone
from shlex import quote

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dsa_doctor.catalog.findings import trouble_of
from dsa_doctor.catalog.targets import find_gpu
from dsa_doctor.render.findings import (
    backends_in_full,
    finding_in_full,
    finding_in_short,
    in_order,
    in_short,
    layer_line,
    rejected_in_short,
)
from dsa_doctor.render.steps import OR, Step, todo
from dsa_doctor.verdict.schema import Finding, Layer, State, Verdict

MAX_WIDTH = 100

_TRAILING_BLANKS = re.compile(r" +((?:\x1b\[0m)?)$", re.MULTILINE)

_SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z])")
_CLAUSE = re.compile(r"; |, where |, and every ")
_LAYER_WIDTHS = 25
_STEP_INDENT = 5
_STATE_STYLES = {
    "native": "bold green",
    "upstream": "bold green",
    "plugin": "bold cyan",
    "unresolved": "bold red",
    "unknown": "bold yellow",
}


def show(console: Console, renderable: RenderableType, *, whole: bool = False) -> None:
    """Print within the report's width, without the blanks that pad tables: in a ticket they are in the way.

    Args:
        console: where to print.
        renderable: what to print.
        whole: break no line, whatever its length: a command that is to be copied.
    """
    with console.capture() as capture:
        if whole:
            console.print(renderable, soft_wrap=True)
        else:
            console.print(renderable, width=min(console.width, MAX_WIDTH))
    trimmed = _TRAILING_BLANKS.sub(r"\1", capture.get()).removesuffix("\n")
    console.print(Text.from_ansi(trimmed), soft_wrap=True)


def print_verdict(
    console: Console, verdict: Verdict, *, verbose: bool = False, title: str | None = None, outcome: str | None = None
) -> None:
    """Print the report of one verdict: the answer, a line a layer, what to do, why, and how many checks pass.

    Args:
        console: where to print; its colour and encoding are respected.
        verdict: what to show.
        verbose: also what passed, all evidence, and every rejected backend.
        title: what was judged, where more than model and GPU tell it from others.
        outcome: the last sentence, where a policy has the last word; None takes the verdict's own.
    """
    show(console, _heading(verdict, title or headline(verdict)))
    show(console, Text())
    reason = kept_from_judging(verdict)
    if reason is not None:
        show(console, Text(reason))
        for line in (line for one in verdict.findings if one.summary == reason for line in one.evidence):
            show(console, Text(f"- {line}", style="dim"))
    else:
        room = min(console.width, MAX_WIDTH) - _LAYER_WIDTHS
        for layer in verdict.layers:
            show(console, _layer(layer, _shown_reason(layer, verdict, room, verbose=verbose)))
    _print_todo(console, verdict)
    if verbose:
        _print_all(console, verdict)
    else:
        _print_why(console, verdict)
    if verdict.configuration is not None:
        show(console, Text("\nConfiguration", style="bold"))
        show(console, _configuration(verdict, verbose=verbose))
    show(console, Text())
    doubtful = next((one.id for one in in_order(verdict.findings) if one.status not in {"pass", "skip"}), None)
    notes = [] if verbose else [_left_out(verdict)]
    notes += [f"A finding in full, offline: dsa-doctor explain {doubtful}"] if doubtful else []
    for note in filter(None, notes):
        show(console, Text(note, style="dim"))
    if verdict.exit_code == 0:
        _print_memory_note(console, verdict)
    show(console, _conclusion(verdict, outcome or conclusion(verdict)))


def _print_all(console: Console, verdict: Verdict) -> None:
    if verdict.findings:
        show(console, Text("\nFindings", style="bold"))
    for finding in in_order(verdict.findings):
        show(console, finding_in_full(finding))
    if verdict.backends:
        show(console, Text("\nAttention backends, in vLLM's order", style="bold"))
        show(console, backends_in_full(verdict.backends))


def _print_why(console: Console, verdict: Verdict) -> None:
    """Print what the lines above do not say: the whole report is to fit on a screen or two."""
    reason = kept_from_judging(verdict)
    said = [one for one in in_short(verdict) if one.finding.summary != reason]
    unserved = any(layer.layer == "attention" and layer.state == "unresolved" for layer in verdict.layers)
    rejected = rejected_in_short(verdict.backends) if unserved else ""
    if said or rejected:
        show(console, Text("\nWhy", style="bold"))
    for index, one in enumerate(said):
        show(console, finding_in_short(one, min(console.width, MAX_WIDTH), rows=1 if index else 2))
    if rejected:
        show(console, Padding(Text(rejected, style="dim"), (0, 0, 0, 2)))


def answer(verdict: Verdict) -> str:
    """Return the answer in a few words: whether it runs, and else the first thing that keeps it from running."""
    failing = next((one for one in _by_layer(verdict) if one.status == "fail"), None)
    unknown = next((one for one in _by_layer(verdict) if one.status == "unknown"), None)
    if verdict.exit_code == 0:
        plugin = any(layer.state == "plugin" for layer in verdict.layers)
        return "runs with dsa-doctor's plugin" if plugin else "runs"
    unresolved = any(layer.state == "unresolved" for layer in verdict.layers)
    if failing is not None and (unresolved or unknown is None):
        return f"does not run: {trouble_of(failing.id)}"
    if unresolved:
        return f"does not run: {_first_reason(verdict, 'unresolved')}"
    if unknown is not None:
        return f"could not be told: {trouble_of(unknown.id)}"
    skipped = next((one for one in verdict.findings if one.status == "skip" and not one.judge_only), None)
    if skipped is not None and all(layer.state == "unknown" for layer in verdict.layers):
        return f"is not judged: {trouble_of(skipped.id)}"
    return f"could not be told: {_first_reason(verdict, 'unknown')}"


def kept_from_judging(verdict: Verdict) -> str | None:
    """Return the one reason for which nothing could be judged, or None where at least one layer was."""
    reasons = {layer.reason for layer in verdict.layers if layer.state == "unknown"}
    if len(reasons) == 1 and all(layer.state == "unknown" for layer in verdict.layers):
        return reasons.pop()
    return None


def headline(verdict: Verdict) -> str:
    """Return what was judged, in one line."""
    model = verdict.model.name if verdict.model is not None else verdict.asked or "no model"
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


def kept_line(verdict: Verdict) -> str | None:
    """Say that an earlier run's answers were used, and how to do without; None where none was."""
    if verdict.kept_from is None:
        return None
    since = f"with answers kept from {verdict.kept_from.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
    if verdict.from_file:
        return f"{since} in the facts file; gather it anew for fresh ones: dsa-doctor facts --no-cache > facts.json"
    return f"{since}; --no-cache asks anew"


def _heading(verdict: Verdict, title: str) -> Text:
    software = verdict.software
    versions = [
        f"vLLM {software.vllm or 'not installed'}",
        f"torch {software.torch or 'not installed'}",
        f"Triton {software.triton or 'not installed'}",
    ]
    style = "bold green" if verdict.exit_code == 0 else "bold yellow" if _is_unknown(verdict) else "bold red"
    text = Text(f"{title}: ", style="bold")
    text.append(answer(verdict), style=style)
    text.append(f"\n{', '.join(versions)}, dsa-doctor {software.dsa_doctor}", style="not bold dim")
    if (kept := kept_line(verdict)) is not None:
        text.append(f"\n{kept}", style="not bold dim")
    if verdict.model is not None and verdict.model.uses_dsa:
        model = verdict.model
        text.append(
            f"\n{model.num_attention_heads} heads, {model.heads_per_rank} per rank; KV row {model.head_size}; "
            f"top-k {model.index_topk}",
            style="not bold dim",
        )
    return text


def _is_unknown(verdict: Verdict) -> bool:
    states = {layer.state for layer in verdict.layers}
    return "unresolved" not in states and "unknown" in states


def _by_layer(verdict: Verdict) -> list[Finding]:
    """Return the findings about the judged GPU, those of unresolved and unknown layers first, in their order."""
    order = {"csrc": 0, "attention": 1, "indexer": 2, "runtime": 3}
    return sorted((one for one in verdict.findings if not one.judge_only), key=lambda one: order[one.layer])


def _first_reason(verdict: Verdict, state: State) -> str:
    layer = next((one for one in verdict.layers if one.state == state), None)
    return layer.reason.rstrip(".") if layer is not None else f"exit code {verdict.exit_code}"


def state_text(state: State) -> Text:
    """Return a state as reports show it: what is not resolved in capitals, for terminals without colour."""
    return Text(state.upper() if state in {"unresolved", "unknown"} else state, style=_STATE_STYLES[state])


def _layer(layer: Layer, reason: str) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=11, no_wrap=True)
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(f"{layer.number} {layer.layer}", state_text(layer.state), Text(reason))
    return grid


def _shown_reason(layer: Layer, verdict: Verdict, room: int, *, verbose: bool) -> str:
    """Return a layer's reason; in short its first sentence, without the GPU, which the report's first line names."""
    if verbose:
        return layer.reason
    is_open = layer.state in {"unresolved", "unknown"}
    reason = layer_line(layer, verdict.findings) if is_open else layer.reason
    name = verdict.target.name if verdict.target is not None else ""
    reason = re.sub(rf" on (?:the )?{re.escape(name)}(?=[ .,;])", "", reason) if name else reason
    if is_open:
        return reason
    reason = _SENTENCE.split(reason, maxsplit=1)[0].rstrip(".")
    if len(reason) >= room:
        reason = _CLAUSE.split(reason, maxsplit=1)[0]
    return f"{reason}."


def _left_out(verdict: Verdict) -> str:
    """Return what --verbose shows besides; empty where that is nothing."""
    passed = sum(one.status == "pass" for one in verdict.findings)
    skipped = sum(one.status == "skip" for one in verdict.findings)
    parts = [f"{passed} {'check passes' if passed == 1 else 'checks pass'}"] if passed else []
    parts += [f"{skipped} {'was' if skipped == 1 else 'were'} skipped"] if skipped else []
    shows = "it" if passed + skipped == 1 else "them"
    if any(one.evidence and one.status not in {"pass", "skip"} for one in verdict.findings):
        shows = f"{shows} and all evidence" if parts else "all evidence"
    elif not parts:
        return ""
    return f"{' and '.join(parts)}{': ' if parts else ''}--verbose shows {shows}."


def _print_memory_note(console: Console, verdict: Verdict) -> None:
    """Print how to have judged what a verdict leaves out, whether the model fits: a command, in one piece."""
    target = verdict.target
    known = find_gpu(target.name) if target is not None else None
    named = f" --target {known.alias if known is not None else target.sm}" if target is not None else ""
    elsewhere = target is not None and target.source == "--target"
    model = (verdict.model.hub_id or verdict.model.name) if verdict.model is not None else "MODEL"
    lead, command = "Whether it fits:", f"dsa-doctor run-model {quote(model)}{named if elsewhere else ''} --dry-run"
    fits = len(lead) + 1 + len(command) <= min(console.width, MAX_WIDTH)
    show(console, Text(f"{lead}{' ' if fits else chr(10) + '  '}{command}", style="dim"), whole=True)


def _print_todo(console: Console, verdict: Verdict) -> None:
    """Print what to do: numbered steps with their alternatives, what is advised, and what concerns this machine."""
    found = todo(verdict)
    helpless = verdict.exit_code != 0 and not found.needed and not _is_unknown(verdict)
    if found or helpless:
        show(console, Text("\nWhat to do", style="bold"))
    if helpless:
        show(console, Padding(Text("Nothing is known that makes it run on this GPU with this vLLM."), (0, 0, 0, 2)))
    for mark, step in found.marked():
        _print_step(console, mark, step)


def _print_step(console: Console, mark: str, step: Step) -> None:
    width = min(console.width, MAX_WIDTH)
    for index, remedy in enumerate(step.remedies):
        line = Text(f"{OR if index else mark}{remedy.lead}")
        line.append(remedy.text, style="bold")
        note = Text(f"   # {remedy.note}" if remedy.note else "", style="dim")
        if remedy.kind == "advice":
            for number, part in enumerate((line + note).wrap(console, width - _STEP_INDENT)):
                show(console, Padding(part, (0, 0, 0, _STEP_INDENT if number else 2)))
        elif line.cell_len + note.cell_len <= width - 2:
            show(console, Padding(line + note, (0, 0, 0, 2)))
        else:
            show(console, Text("  ") + line, whole=True)
            if remedy.note:
                show(console, Padding(Text(f"# {remedy.note}", style="dim"), (0, 0, 0, _STEP_INDENT)))
    show(console, Padding(Text(f"for {step.reason}", style="dim"), (0, 0, 0, _STEP_INDENT)))


def _conclusion(verdict: Verdict, sentence: str) -> Text:
    return Text(sentence, style="bold green" if verdict.exit_code == 0 else "bold red")


def _configuration(verdict: Verdict, *, verbose: bool) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=22, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    configuration = verdict.configuration
    if configuration is None:
        return grid
    rows = {
        "attention backend": configuration.attention_backend,
        "KV cache dtype": configuration.kv_cache_dtype,
        "block size": str(configuration.block_size or "vLLM's default"),
        **(configuration.fallbacks if verbose else {}),
    }
    for name, value in rows.items():
        grid.add_row(f"  {name}", value)
    return grid
