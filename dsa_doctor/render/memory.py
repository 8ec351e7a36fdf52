"""The memory of one GPU as a picture: weights, reserve, cache and what vLLM is not given, to scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dsa_doctor.planner.estimates import GIB
from dsa_doctor.planner.plan import Line, Plan
from dsa_doctor.render.human import MAX_WIDTH, show

_MOST_PARTS = 3
_WEIGHTS = ("weights", "absorbed", "offloaded")
_STYLES = {"weights": "blue", "reserve": "magenta", "KV cache": "green", "left alone": "dim"}
_MARKS = {"weights": "#", "reserve": "+", "KV cache": "=", "left alone": "."}


@dataclass(frozen=True)
class Block:
    """One block of the picture: its bytes, how sure they are, and what they are."""

    name: str
    size: int
    label: str
    note: str


def print_memory(console: Console, plan: Plan, *, verbose: bool = False) -> None:
    """Print the memory plan of the fullest GPU: a bar to scale with its figures; verbose: every line of the plan."""
    title = Text("\nMemory of one GPU", style="bold")
    if plan.hardware.gpus_per_node * plan.hardware.nodes > 1:
        title.append(", the fullest", style="not bold dim")
    show(console, title)
    show(console, Padding(Text(_spread(plan), style="dim"), (0, 0, 0, 2)))
    found = blocks(plan)
    if plan.budget_bytes is not None:
        width = min(console.width, MAX_WIDTH) - 2
        for line in _bar(found, plan, width):
            show(console, Padding(line, (0, 0, 0, 2)))
    table = Table.grid(padding=(0, 2))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for block in found:
        mark = Text(_MARKS[block.name] if plan.budget_bytes is not None else "", style=_STYLES[block.name])
        table.add_row(mark, block.name, _gib(block.size), block.label, Text(block.note, style="dim"))
    show(console, Padding(table, (0, 0, 0, 2)))
    if verbose:
        _print_lines(console, plan)
    for one in plan.host_lines:
        host = f"and {_gib(one.bytes)} of pinned host memory per node, {one.label}: {one.name}"
        show(console, Padding(Text(host), (0, 0, 0, 2)))
    if plan.assumed:
        lacking = f"The cache is estimated: the configuration lacks {', '.join(plan.assumed)}; the default was taken"
        show(console, Padding(Text(lacking, style="yellow"), (0, 0, 0, 2)))
    for doubt in plan.weights_doubts:
        show(console, Padding(Text(f"The weights are estimated: {doubt}", style="yellow"), (0, 0, 0, 2)))


def blocks(plan: Plan) -> tuple[Block, ...]:
    """Return the blocks of the picture; they add up to the GPU's memory where that is known and the model fits."""
    weights = [line for line in plan.lines if line.name.startswith(_WEIGHTS)]
    reserve = [line for line in plan.lines if line not in weights]
    found = [
        Block("weights", _sum(weights), _label(weights), _parts(weights)),
        Block("reserve", _sum(reserve), _label(reserve), _parts(reserve)),
    ]
    if plan.kv_cache_bytes is not None:
        tokens = f"{plan.kv_tokens:,} tokens, " if plan.kv_tokens else "nothing is left, "
        note = f"{tokens}{plan.kv_token_bytes:,} bytes each"
        if (beside := _beside_tokens(plan)) > plan.kv_request_bytes // 100:
            note += f"; windows and states take up to {_gib(beside)} of a request"
        found.append(Block("KV cache", max(0, plan.kv_cache_bytes), "the rest", note))
    alone = left_alone(plan)
    if alone is not None and (plan.kv_cache_bytes or 0) >= 0:  # else what does not fit stands in its place
        note = f"beyond --gpu-memory-utilization {plan.gpu_memory_utilization:g}, and the driver's"
        found.append(Block("left alone", alone, "", note))
    return tuple(found)


def _beside_tokens(plan: Plan) -> int:
    """Return what one request of a hybrid model holds beside its tokens."""
    return max(0, plan.kv_request_bytes - plan.kv_token_bytes * (plan.max_model_len or 0))


def left_alone(plan: Plan) -> int | None:
    """Return the bytes of the GPU that vLLM does not take; None where its memory is not known."""
    memory = plan.hardware.memory_bytes
    return None if memory is None or plan.budget_bytes is None else max(0, memory - plan.budget_bytes)


def size_range(line: Line) -> str:
    """Return the size of a line: a range where only that is known."""
    if line.low_bytes is None or line.low_bytes == line.bytes:
        return _gib(line.bytes)
    return f"{line.low_bytes / GIB:.2f} to {_gib(line.bytes)}"


def _spread(plan: Plan) -> str:
    parallel, hardware = plan.parallel, plan.hardware
    nodes = f"{hardware.nodes} nodes of " if hardware.nodes > 1 else ""
    sizes = [f"tensor parallel {parallel.tensor}"]
    sizes += [f"pipeline parallel {parallel.pipeline}"] if parallel.pipeline > 1 else []
    sizes += [f"data parallel {parallel.data}"] if parallel.data > 1 else []
    sizes += ["expert parallel"] if parallel.expert else []
    low = plan.disk_bytes if plan.disk_low_bytes is None else min(plan.disk_low_bytes, plan.disk_bytes)
    ends = dict.fromkeys(f"{size / 1e9:.0f}" for size in (low, plan.disk_bytes))
    disk = f"weights in {plan.storage}, {' to '.join(ends)} GB on disk"
    return f"{nodes}{hardware.gpus_per_node} x {hardware.name}; {', '.join(sizes)}; {disk}"


def _bar(found: Sequence[Block], plan: Plan, width: int) -> tuple[Text, ...]:
    """Return the bar, and below it a mark where the memory that vLLM may take ends."""
    taken = sum(block.size for block in found if block.name != "left alone")
    budget = plan.budget_bytes or 0
    scale = max(taken, sum(block.size for block in found if block.size > 0), plan.hardware.memory_bytes or 0, 1)
    cells = width - 2
    bar, end, before = Text("["), 0, 0
    for block in found:
        before += max(0, block.size)
        stop = min(cells, round(before / scale * cells))
        bar.append(_MARKS[block.name] * (stop - end), style=_STYLES[block.name])
        end = max(end, stop)
    bar.append(f"{' ' * (cells - end)}]")
    at = round(budget / scale * cells)
    label = f"{budget / GIB:.2f} GiB for vLLM"
    left = at + 1 - len(label) - 1
    ruler = f"{' ' * max(0, left)}{label} ^" if left >= 0 else f"{' ' * at}^ {label}"
    return bar, Text(ruler, style="bold red" if taken > budget else "dim")


def _print_lines(console: Console, plan: Plan) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=26, no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(width=10, no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for line in plan.lines:
        table.add_row(f"  {line.name}", size_range(line), line.label, Text(line.note, style="dim"))
    show(console, Text())
    show(console, Padding(table, (0, 0, 0, 2)))


def _sum(lines: Sequence[Line]) -> int:
    return sum(line.bytes for line in lines)


def _label(lines: Sequence[Line]) -> str:
    if any(line.low_bytes is not None and line.low_bytes < line.bytes for line in lines):
        least = sum(line.bytes if line.low_bytes is None else line.low_bytes for line in lines)
        return f"at most; at least {_gib(least)}"
    return "exact" if all(line.label == "exact" for line in lines) else "estimated"


def _parts(lines: Sequence[Line]) -> str:
    """Return the largest parts with their sizes; of the small ones only how many there are."""
    ordered = sorted((line for line in lines if line.bytes), key=lambda line: -abs(line.bytes))
    named = [f"{line.name.removeprefix('weights: ')} {line.bytes / GIB:.2f}" for line in ordered[:_MOST_PARTS]]
    rest = ordered[_MOST_PARTS:]
    more = [f"{len(rest)} more {_sum(rest) / GIB:.2f}"] if rest else []
    return ", ".join([*named, *more])


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
