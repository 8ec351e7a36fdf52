"""The explanation of a log for people; as JSON it is `render_json`."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from dsa_doctor.explain.schema import Explanation, LogContext, LogFinding
from dsa_doctor.render.human import show

_LAYER_NUMBERS = {"csrc": "1 csrc", "attention": "2 attention", "indexer": "3 indexer", "runtime": "runtime"}


def print_explanation(console: Console, explanation: Explanation, *, verbose: bool = False) -> None:
    """Print an explanation: what failed, root cause first, what helps, and what would fail next.

    Args:
        console: where to print.
        explanation: what to show.
        verbose: also every rejected attention backend.
    """
    layers_fail = any(one.layer != "runtime" for one in explanation.findings)
    sound = explanation.context.end in {"healthy", "stopped"}
    style = "bold red" if layers_fail else "bold yellow" if explanation.findings or not sound else "bold green"
    show(console, Text(f"{explanation.message} Exit code {explanation.exit_code}.", style=style))
    context = describe_context(explanation.context)
    if context:
        show(console, Text(context, style="dim"))
    for note in explanation.notes:
        show(console, Text(f"note: {note}"))
    for finding in explanation.findings:
        show(console, Text())
        show(console, _heading(finding))
        show(console, Padding(_body(finding, verbose=verbose), (0, 0, 0, 2)))
    if not explanation.findings:
        note = (
            "Wrong output without an error leaves no trace in a log: dsa-doctor check MODEL judges the configuration."
        )
        show(console, Text(f"\n{note}", style="dim"))


def describe_context(context: LogContext) -> str:
    """Return what the log tells of its circumstances in one line, or ""."""
    parts = []
    if context.engine:
        parts.append(f"{context.engine} {context.engine_version or ''}".strip())
    if context.platform not in {None, "cuda"}:
        parts.append(f"platform {context.platform}")
    if context.model:
        parts.append(f"model {context.model}")
    if context.capability:
        name = f"{context.gpu}, " if context.gpu else ""
        parts.append(f"{name}compute capability {context.capability} ({context.capability_source})")
    if context.stage:
        parts.append(f"during {context.stage}")
    if context.attention_backend:
        parts.append(f"attention backend {context.attention_backend}")
    return "; ".join(parts)


def _heading(finding: LogFinding) -> Text:
    text = Text(f"{finding.id}  {_LAYER_NUMBERS[finding.layer]}", style="bold")
    seen = f"line {finding.line}" if finding.count == 1 else f"line {finding.line}, seen {finding.count} times"
    text.append(f"  {seen}", style="not bold dim")
    return text


def _body(finding: LogFinding, *, verbose: bool) -> Text:
    body = Text(finding.summary)
    for evidence in finding.evidence:
        body.append(f"\n{evidence.line}: {evidence.text}", style="dim")
    if finding.backends and verbose:
        for backend in finding.backends:
            body.append(f"\nrejected {backend.name}: {'; '.join(backend.reasons)}", style="dim")
    elif finding.backends:
        rejected = "; ".join(f"{one.name} ({', '.join(one.reasons[:2])})" for one in finding.backends[:6])
        more = f"; {len(finding.backends) - 6} more (--verbose)" if len(finding.backends) > 6 else ""
        body.append(f"\nrejected: {rejected}{more}", style="dim")
    for one in finding.possible:
        body.append("\neither: ", style="bold")
        body.append(f"{one.cause}; told by: {one.told_by}")
    for remedy in finding.remedy:
        body.append("\nhelps: ", style="bold")
        body.append(remedy)
    for what in finding.collect:
        body.append("\ncollect: ", style="bold")
        body.append(what)
    if finding.plugin is not None:
        word = {True: "yes", False: "no", None: "unknown"}[finding.plugin.resolves]
        body.append("\nplugin: ", style="bold")
        body.append(f"{word}, {finding.plugin.reason}")
    for following in finding.next:
        body.append("\nnext: ", style="bold")
        body.append(f"{following.id} ({following.layer}), {following.summary}")
    return body
