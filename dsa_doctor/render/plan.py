"""The memory plan, the flags and the state of a launch, for people."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dsa_doctor.launch.conditions import Condition
from dsa_doctor.launch.flags import Flag, Variable
from dsa_doctor.launch.stages import TITLES, Stage
from dsa_doctor.launch.watch import Outcome
from dsa_doctor.planner.estimates import GIB
from dsa_doctor.planner.plan import Plan
from dsa_doctor.planner.shapes import Shape
from dsa_doctor.render.human import MAX_WIDTH, STATUS_STYLES

_TRAILING_BLANKS = re.compile(r"[ \t]+((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)


@contextmanager
def _without_trailing_blanks(console: Console) -> Iterator[None]:
    """Print what is printed inside without the blanks with which tables are padded."""
    with console.capture() as capture:
        yield
    console.print(Text.from_ansi(_TRAILING_BLANKS.sub(r"\1", capture.get())), soft_wrap=True, end="")


def print_plan(console: Console, plan: Plan, shapes: Sequence[Shape]) -> None:
    """Print the memory plan of the fullest GPU, and what would fit where it does not."""
    with _without_trailing_blanks(console):
        _print_plan(console, plan, shapes)


def _print_plan(console: Console, plan: Plan, shapes: Sequence[Shape]) -> None:
    width = min(console.width, MAX_WIDTH)
    parallel = plan.parallel
    console.print(Text("\nMemory per GPU", style="bold"), width=width)
    sizes = f"tensor parallel {parallel.tensor}, pipeline parallel {parallel.pipeline}"
    sizes += f", data parallel {parallel.data}" if parallel.data > 1 else ""
    hardware = plan.hardware
    where = f"{hardware.nodes} x {hardware.gpus_per_node} {hardware.name}, {sizes}, weights in {plan.storage}"
    console.print(Padding(Text(where, style="dim"), (0, 0, 0, 2)), width=width)
    table = Table.grid(padding=(0, 2))
    table.add_column(width=26, no_wrap=True)
    table.add_column(width=12, justify="right", no_wrap=True)
    table.add_column(width=10, no_wrap=True)
    table.add_column(ratio=1)
    for line in plan.lines:
        size = _gib(line.bytes) if line.low_bytes is None else f"<= {_gib(line.bytes)}"
        note = line.note if line.low_bytes is None else f"at least {_gib(line.low_bytes)}"
        table.add_row(f"  {line.name}", size, line.label, Text(note, style="dim"))
    if plan.kv_cache_bytes is not None and plan.budget_bytes is not None:
        note = f"{plan.kv_token_bytes:,} bytes a token, exact"
        table.add_row("  KV cache", _gib(plan.kv_cache_bytes), "the rest", Text(note, style="dim"))
        table.add_row("  budget", _gib(plan.budget_bytes), "", Text("what torch can use, times the share", style="dim"))
    console.print(table, width=width)
    console.print(_fit(plan), width=width)
    for doubt in plan.weights_doubts:
        console.print(Padding(Text(f"weights are estimated: {doubt}", style="yellow"), (0, 0, 0, 2)), width=width)
    if shapes:
        console.print(Text("\nWhat fits", style="bold"), width=width)
    for shape in shapes:
        text = Text(f"{shape.what}\n", style="bold")
        text.append(f"  {shape.cost}", style="not bold")
        console.print(Padding(text, (0, 0, 0, 2)), width=width)


def print_flags(
    console: Console,
    flags: Sequence[Flag],
    variables: Sequence[Variable],
    extra: Sequence[str],
    fallbacks: Mapping[str, str],
) -> None:
    """Print the table: flag, value, why, from where."""
    width = min(console.width, MAX_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", width=width)
    table.add_column("FLAG", no_wrap=True)
    table.add_column("VALUE", overflow="fold", max_width=20)
    table.add_column("WHY", ratio=2)
    table.add_column("FROM", ratio=1)
    for flag in flags:
        table.add_row(flag.option, flag.value or "", Text(flag.why), Text(flag.source))
    for variable in variables:
        table.add_row(variable.name, variable.value, Text(variable.why), Text(variable.source))
    for part, by in fallbacks.items():
        table.add_row(part, "", Text(by), Text("resolver, applied by the plugin"))
    if extra:
        table.add_row(shlex.join(extra), "", Text("given after --: last, so it wins"), Text("command line"))
    with _without_trailing_blanks(console):
        console.print(Text())
        console.print(table, width=width)


def print_command(console: Console, variables: Sequence[Variable], command: Sequence[str]) -> None:
    """Print the launch as one line to copy: never wrapped by the console."""
    console.print(Text("\nCommand", style="bold"))
    console.print(Text(command_line(variables, command)), soft_wrap=True)


def command_line(variables: Sequence[Variable], command: Sequence[str]) -> str:
    """Return the launch as one shell command."""
    prefix = [f"{one.name}={shlex.quote(one.value)}" for one in variables]
    return " ".join([*prefix, shlex.join(command)])


def print_conditions(console: Console, conditions: Sequence[Condition], *, verbose: bool) -> None:
    """Print what was looked at before the start; what passes only where asked."""
    width = min(console.width, MAX_WIDTH)
    shown = [one for one in conditions if verbose or one.status != "pass"]
    if shown:
        console.print(Text("\nBefore the start", style="bold"), width=width)
    for one in shown:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(width=9, no_wrap=True)
        grid.add_column(width=14, no_wrap=True)
        grid.add_column(ratio=1)
        body = Text(one.summary)
        if one.remedy and one.status != "pass":
            body.append(f"\n{one.remedy}", style="dim")
        grid.add_row(Text(f"  {one.status.upper()}", style=STATUS_STYLES[one.status]), one.name, body)
        with _without_trailing_blanks(console):
            console.print(grid, width=width)


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


def _fit(plan: Plan) -> Text:
    if plan.problems:
        return Text(f"  vLLM refuses these sizes: {'; '.join(plan.problems)}.", style="bold red")
    disk = f"{plan.disk_bytes / 1e9:.0f} GB on disk"
    if plan.disk_low_bytes is not None and round(plan.disk_low_bytes / 1e9) < round(plan.disk_bytes / 1e9):
        disk = f"{plan.disk_low_bytes / 1e9:.0f} to {disk}"
    if plan.fits is None and plan.budget_bytes is not None:
        weights = [line for line in plan.lines if line.name.startswith("weights: ")]
        most = sum(line.bytes for line in weights)
        least = sum(line.bytes if line.low_bytes is None else line.low_bytes for line in weights)
        size = f"the weights take {_gib(least)} to {_gib(most)} per GPU"
        return Text(f"  Whether it fits is not known: {size}. {disk}.", style="bold yellow")
    if plan.fits is None:
        return Text(f"  Whether it fits is not known: the GPU's memory is not. {disk}.", style="bold yellow")
    if not plan.fits:
        shortfall = f"{plan.shortfall_bytes / GIB:.1f} GiB per GPU are missing"
        return Text(f"  It does not fit: {shortfall} for {plan.max_model_len:,} tokens of context.", style="bold red")
    largest = f"at most {plan.largest_context:,} tokens of context" if plan.largest_context else ""
    text = f"  It fits (estimated): {plan.kv_tokens:,} tokens in the KV cache; {largest}; "
    return Text(
        f"{text}{plan.largest_batch} sequences of {plan.max_model_len:,} tokens at once; {disk}.", style="bold green"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
