"""Times the command line against `import vllm`, in one run on one machine, and prints ratios.

    python benchmarks/cli.py [--rounds 5] [--only WORD]

Each command is a process of its own. Rounds interleave the commands, and every command is paired with an import of
its own round, so that a slow minute of the machine hits both. Printed are medians over the rounds: seconds of wall
clock and of processor time (children included), and their ratios to the import, each with the smallest and largest.

`cold` starts with an empty cache folder, `warm` with what one run before has kept. The page cache is warm in both.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TARGETS = ("a100", "a100-40gb", "3090", "4090", "l40s", "l4", "h100", "h200", "b200", "5090")
MODELS = ("GLM-5-FP8", "GLM-5.1-FP8", "GLM-5.2-FP8", "DeepSeek-V3.2", "GLM-5")
CHECK = ("check", "GLM-5-FP8", "--target", "a100")
FLEET = ("check", *MODELS, *(word for target in TARGETS for word in ("--target", target)))
DRY_RUN = ("run-model", "GLM-5-FP8", "--target", "h100", "--gpus", "16", "--dry-run")


@dataclass(frozen=True)
class Command:
    """What is timed.

    Attributes:
        arguments: of dsa-doctor; None is the import.
        aim: the largest ratio of wall-clock times that is aimed at.
        cache: `cold`, `warm`, or None where no cache takes part.
    """

    arguments: tuple[str, ...] | None
    aim: float | None = None
    cache: str | None = None


COMMANDS = {
    "import vllm": Command(None),
    "--help": Command(("--help",), 0.05),
    "check, a mistyped model": Command(("check", "GLM-5-FP9", "--target", "a100"), 0.1),
    "check, cold": Command(CHECK, 1.15, "cold"),
    "check, warm": Command(CHECK, 0.2, "warm"),
    "check, 5 models x 10 targets, cold": Command(FLEET, 1.5, "cold"),
    "run-model --dry-run, cold": Command(DRY_RUN, None, "cold"),
    "run-model --dry-run, warm": Command(DRY_RUN, None, "warm"),
    "facts --no-selector, cold": Command(("facts", "--no-selector"), None, "cold"),
}


def timed(command: Command, folder: Path) -> tuple[float, float]:
    """Return seconds of wall clock and of processor time of one process and its children, whatever it says."""
    words = ["-c", "import vllm"] if command.arguments is None else ["-m", "dsa_doctor", *command.arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "DSA_DOCTOR_CACHE": "on" if command.cache else "off"}
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=said, env=environment, cwd="/"
        )
        _, _, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - start
        process.returncode = 0  # reaped above
        said.seek(0)
        text = said.read()
    if "Traceback" in text:
        raise SystemExit(f"{' '.join(words)} failed; no time is reported:\n{text}")
    return elapsed, usage.ru_utime + usage.ru_stime


def measure(command: Command, warm: Path) -> tuple[float, float]:
    """Time a command with the cache folder that it is to find."""
    if command.cache != "cold":
        return timed(command, warm)
    with tempfile.TemporaryDirectory() as empty:
        return timed(command, Path(empty))


def summary(values: list[float], form: str) -> str:
    """Return median [smallest, largest]."""
    show: Callable[[float], str] = form.format
    return f"{show(statistics.median(values))} [{show(min(values))}, {show(max(values))}]"


def main() -> None:
    """Run all commands in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="time only the commands whose name holds this, beside the import")
    options = parser.parse_args()
    wanted = {
        name: one for name, one in COMMANDS.items() if options.only is None or options.only in name or not one.arguments
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        for command in wanted.values():
            if command.cache != "cold":
                measure(command, Path(folder))  # warms the page cache, for the cold ones too, and the cache folder
        for _ in range(options.rounds):
            for name, command in wanted.items():
                times[name].append(measure(command, Path(folder)))
    base = times["import vllm"]
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds")
    print(
        "| Command | Seconds | Processor seconds | Ratio | Ratio of processor time | Aim |\n|---|---|---|---|---|---|"
    )
    for name, command in wanted.items():
        wall = [one[0] / other[0] for one, other in zip(times[name], base, strict=True)]
        cpu = [one[1] / other[1] for one, other in zip(times[name], base, strict=True)]
        aim = ""
        if command.aim is not None:
            aim = f"{command.aim:g}, {'met' if statistics.median(wall) <= command.aim else 'missed'}"
        cells = (
            name,
            summary([one[0] for one in times[name]], "{:.2f}"),
            summary([one[1] for one in times[name]], "{:.2f}"),
            summary(wall, "{:.3f}"),
            summary(cpu, "{:.3f}"),
            aim,
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
