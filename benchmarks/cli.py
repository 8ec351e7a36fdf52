"""Times the command line against `import vllm`, in one run on one machine, and prints ratios.

    python benchmarks/cli.py [--rounds 5]

Each command is a process of its own; rounds interleave the commands, so that a slow minute of the machine hits all of
them. The median is reported, with the smallest and the largest. Aims: `--help` under a twentieth of `import vllm`,
`facts --no-selector` under a third, the whole check no more than 1.3 times.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

IMPORT = "import vllm"
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    IMPORT: ([sys.executable, "-c", "import vllm"], None),
    "dsa-doctor --help": ([sys.executable, "-m", "dsa_doctor", "--help"], 1 / 20),
    "dsa-doctor facts --no-selector": ([sys.executable, "-m", "dsa_doctor", "facts", "--no-selector"], 1 / 3),
    "dsa-doctor check GLM-5-FP8 --target a100": (
        [sys.executable, "-m", "dsa_doctor", "check", "GLM-5-FP8", "--target", "a100"],
        1.3,
    ),
}


def seconds(command: list[str]) -> float:
    """Return the wall-clock time of one process; its exit code is its verdict and does not matter here."""
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)
    elapsed = time.perf_counter() - start
    if "Traceback" in done.stderr:
        raise SystemExit(f"{' '.join(command)} failed; no time is reported:\n{done.stderr}")
    return elapsed


def main() -> None:
    """Run all commands in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for command, _ in COMMANDS.values():
        seconds(command)  # warms the file cache
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (command, _) in COMMANDS.items():
            times[name].append(seconds(command))
    base = statistics.median(times[IMPORT])
    print(f"{'command':<42} {'median s':>9} {'min':>7} {'max':>7} {'ratio':>7} {'aim':>7}")
    for name, (_, aim) in COMMANDS.items():
        median = statistics.median(times[name])
        verdict = "" if aim is None else f"{aim:7.3f} {'met' if median / base <= aim else 'MISSED'}"
        print(
            f"{name:<42} {median:9.2f} {min(times[name]):7.2f} {max(times[name]):7.2f} {median / base:7.3f} {verdict}"
        )


if __name__ == "__main__":
    main()
