"""The memory plan, the flags and the state of a launch, for people."""

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dsa_doctor.emit.ranks import node_arguments
from dsa_doctor.launch.conditions import Condition
from dsa_doctor.launch.flags import Variable, advice_of
from dsa_doctor.launch.prepare import Prepared
from dsa_doctor.launch.request import LaunchOptions
from dsa_doctor.launch.secrets import hidden, left_out
from dsa_doctor.launch.stages import TITLES, Stage
from dsa_doctor.launch.watch import Outcome
from dsa_doctor.planner.estimates import GIB
from dsa_doctor.planner.plan import Plan
from dsa_doctor.render.findings import STATUS_STYLES
from dsa_doctor.render.human import MAX_WIDTH, answer, headline, show
from dsa_doctor.render.memory import print_memory

RENDEZVOUS = "ADDRESS_OF_NODE_0"
"""Stands in the command of several nodes for what only the user knows."""


def print_launch(console: Console, prepared: Prepared, asked: LaunchOptions, *, holds: bool, verbose: bool) -> None:
    """Print a prepared launch: verdict in one line, memory, what would fit, flags, and the command where it holds.

    Args:
        console: where to print.
        prepared: what was prepared.
        asked: what it was prepared from.
        holds: whether the command may be shown: the plan fits, its memory is not known, or the user insists.
        verbose: also every line of the plan, and why each flag is there.
    """
    verdict, plan = prepared.verdict, prepared.plan
    if verdict.exit_code == 0:
        misfit = plan.fits is False
        line = Text(f"{headline(verdict)}: ", style="bold")
        line.append(answer(verdict), style="bold yellow" if misfit else "bold green")
        but = ", but vLLM refuses these options" if plan.problems else ", but does not fit" if misfit else ""
        line.append(but, style="bold red")
        line.append("; whether it fits could not be told" if plan.estimates_decide else "", style="bold yellow")
        show(console, line)
        for finding in verdict.findings:
            if finding.status == "warn" and not finding.judge_only:
                met = next((one.arguments for one in prepared.flags if one.source == advice_of(finding.id)), None)
                said = f"{finding.summary} The command has {shlex.join(met)}." if holds and met else finding.summary
                show(console, Padding(Text(f"warning, {finding.id}: {said}", style="yellow"), (0, 0, 0, 2)))
    print_memory(console, plan, verbose=verbose)
    if prepared.shapes:
        show(console, Text("\nWhat fits", style="bold"))
    for number, shape in enumerate(prepared.shapes):
        what = Text("or " if number else "   ")
        what.append(shape.what, style="bold")
        show(console, Padding(what, (0, 0, 0, 2)))
        show(console, Padding(Text(shape.cost, style="dim"), (0, 0, 0, 7)))
    if holds:
        _print_flags(console, prepared, asked, verbose=verbose)
        _print_command(console, prepared, asked)


def print_plan_answer(console: Console, prepared: Prepared, *, exit_code: int | None) -> None:
    """Print whether the launch fits, in a sentence: the last thing on the screen.

    Args:
        console: where to print.
        prepared: what was prepared.
        exit_code: exit code of the process; None where it goes on.
    """
    plan = prepared.plan
    ending = f" Exit code {exit_code}." if exit_code is not None else ""
    sure = "sure " if plan.estimates_decide else ""
    nearest = f" Nearest {sure}fit: {prepared.shapes[0].what}." if prepared.shapes else ""
    style = {True: "bold green", False: "bold red", None: "bold yellow"}[plan.fits]
    show(console, Text(f"\n{plan_answer(plan)}{nearest}{ending}", style=style))


def plan_answer(plan: Plan) -> str:
    """Return whether a plan fits, in a sentence or two."""
    if plan.problems:
        return f"vLLM refuses this launch: {'; '.join(plan.problems)}."
    if plan.fits is None:
        if plan.budget_bytes is None:
            return "Whether it fits is not known: the GPU's memory is not. --gpu-memory GIB says it."
        if plan.estimates_decide:
            short = f"{plan.shortfall_bytes / GIB:.1f} of the {plan.uncertain_bytes / GIB:.1f} GiB per GPU"
            return (
                f"Whether it fits could not be told (estimates decide): for {plan.max_model_len:,} tokens of context "
                f"it is short by {short} that are estimated beside weights and cache. vLLM measures them at its start."
            )
        return "Whether it fits is not known: the weights fit at one end of their range only."
    if not plan.fits:
        missing = f"{plan.shortfall_bytes / GIB:.1f} GiB per GPU are missing"
        return f"It does not fit: {missing} for {plan.max_model_len:,} tokens of context."
    context = plan.max_model_len or plan.native_context
    own = f" of the model's {plan.native_context:,}" if context < plan.native_context else ""
    batch = plan.largest_batch or 0
    once = f"{batch} such {'request' if batch == 1 else 'requests'} at once"
    return f"It fits (estimated): {context:,} tokens of context{own}, {once}."


def _print_flags(console: Console, prepared: Prepared, asked: LaunchOptions, *, verbose: bool) -> None:
    """Print the flags by where they come from; verbose: each with its reason."""
    show(console, Text("\nFlags and variables, by where they come from", style="bold"))
    settings: dict[str, list[tuple[str, str]]] = {}
    for flag in prepared.flags:
        settings.setdefault(flag.source, []).append((shlex.join(flag.arguments), flag.why))
    for variable in prepared.variables:
        settings.setdefault(variable.source, []).append((f"{variable.name}={variable.value}", variable.why))
    if asked.passthrough:
        given = [(one, "given") for one in options_of(hidden(asked.passthrough))]
        settings["after --, where they win"] = given
    room = min(console.width, MAX_WIDTH) - 4
    for source, pairs in settings.items():
        show(console, Padding(Text(source, style="dim"), (0, 0, 0, 2)))
        lines = [f"{text}\n  {why}" for text, why in pairs] if verbose else _filled([text for text, _ in pairs], room)
        for line in lines:
            show(console, Padding(Text(line, overflow="fold"), (0, 0, 0, 4)))
    if prepared.left_out is not None:
        show(console, Padding(Text(prepared.left_out, style="dim"), (0, 0, 0, 2)))
    configuration = prepared.verdict.configuration
    for part, by in (configuration.fallbacks if configuration is not None and verbose else {}).items():
        show(console, Padding(Text(f"{part}: {by} (by the plugin)", style="dim"), (0, 0, 0, 2)))


def _print_command(console: Console, prepared: Prepared, asked: LaunchOptions) -> None:
    """Print the launch to be copied, one flag a line and never wrapped: of node 0, and how the others differ."""
    nodes = asked.nodes.value
    show(console, Text("\nCommand" if nodes == 1 else "\nCommand on node 0", style="bold"))
    ours = prepared.arguments[: len(prepared.arguments) - len(asked.passthrough)]
    passthrough, variables = left_out(asked.passthrough)
    place = node_arguments(str(nodes), rank="0", master=RENDEZVOUS) if nodes > 1 else []
    console.print(Text(command_text(prepared.variables, [*ours, *place, *passthrough])), soft_wrap=True)
    if nodes > 1:
        others = "node 1" if nodes == 2 else f"nodes 1 to {nodes - 1}"
        text = f"On {others}: the same with its own --node-rank, and --headless."
        text += " --emit shell, docker, lws or ray writes the launch of every node."
        show(console, Text(text))
    for name in variables:
        show(console, Text(f"What is secret after -- is left out: set {name} to it.", style="dim"))


def command_text(variables: Sequence[Variable], command: Sequence[str]) -> str:
    """Return the launch as one shell command, an option with its values a line."""
    lines = [*(f"{one.name}={shlex.quote(one.value)}" for one in variables), *options_of(command)]
    return " \\\n  ".join(lines)


def options_of(arguments: Sequence[str]) -> list[str]:
    """Return arguments as shell words, an option with its values each; what precedes the first option is one."""
    parts: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("-") or not parts:
            parts.append([])
        parts[-1].append(argument)
    return [shlex.join(one) for one in parts]


def _filled(texts: Sequence[str], room: int) -> list[str]:
    """Return texts joined to lines of at most `room` characters; none is split, whatever its length."""
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + 2 + len(text) <= room:
            lines[-1] += f"  {text}"
        else:
            lines.append(text)
    return lines


def print_conditions(console: Console, conditions: Sequence[Condition], *, verbose: bool) -> None:
    """Print what was looked at before the start; what passes only where asked.

    A terminal gets columns; a file or pipe whole lines, so that a search finds what a long path would break.
    """
    shown = [one for one in conditions if verbose or one.status != "pass"]
    if shown:
        show(console, Text("\nBefore the start", style="bold"))
    for one in shown:
        if not console.is_terminal:
            remedy = f" {one.remedy}" if one.remedy and one.status != "pass" else ""
            console.print(Text(f"  {one.status.upper():7}  {one.name}: {one.summary}.{remedy}"), soft_wrap=True)
            continue
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(width=9, no_wrap=True)
        grid.add_column(width=14, no_wrap=True)
        grid.add_column(ratio=1, overflow="fold")
        body = Text(one.summary)
        if one.remedy and one.status != "pass":
            body.append(f"\n{one.remedy}", style="dim")
        grid.add_row(Text(f"  {one.status.upper()}", style=STATUS_STYLES[one.status]), one.name, body)
        show(console, grid)


def stage_line(stage: Stage, seconds: float) -> str:
    """Return the line that announces a stage."""
    return f"[{_clock(seconds)}] {TITLES[stage]}"


def summary_lines(outcome: Outcome, url: str, plan: Plan | None) -> list[str]:
    """Return the summary of a ready server: only what the log and the server themselves told."""
    facts = outcome.facts
    lines = [f"ready after {_clock(outcome.ready_seconds or 0.0)}: {url}/v1"]
    lines.append(f"attention backend: {facts.backend or 'not said in the log'}")
    lines += [f"layers: {line}" for line in facts.layers]
    if facts.weights_gib is not None:
        lines.append(f"weights: {facts.weights_gib:.2f} GiB per GPU")
    if facts.kv_memory_gib is not None:
        lines.append(f"KV cache: {facts.kv_memory_gib:.2f} GiB per GPU")
    if facts.kv_tokens is not None:
        planned = f" (planned: {plan.kv_tokens:,})" if plan is not None and plan.kv_tokens is not None else ""
        lines.append(f"KV cache: {facts.kv_tokens:,} tokens{planned}")
    if outcome.answer is not None:
        text = " ".join(outcome.answer.text.split())
        lines.append(f"smoke prompt: {text[:120]!r}" if outcome.answer.answered else "smoke prompt: no answer")
        if outcome.answer.problem is not None:
            lines.append(f"smoke prompt: {outcome.answer.problem}")
    return lines


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
