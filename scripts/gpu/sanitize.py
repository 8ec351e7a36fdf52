"""Every kernel of the package, on a small case, under compute-sanitizer's four tools at once.

    PYTHONPATH=kernels python scripts/gpu/sanitize.py --compile-only      # fill Triton's cache, without a sanitizer
    PYTHONPATH=kernels python scripts/gpu/sanitize.py --out sanitize.json
    PYTHONPATH=kernels python scripts/gpu/sanitize.py --self-check        # a planted fault per tool must be reported

The kernels are discovered, not listed: the run fails when one of them was not launched under a tool. Exit status 0 when
every tool covered every kernel and reported nothing, 1 otherwise.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "kernels")]

TOOLS = ("memcheck", "initcheck", "racecheck", "synccheck")
ERRORS_FOUND = 77
"""Exit status that compute-sanitizer is told to give when it has found something."""


@dataclass
class Part:
    """One process: a tool over a part of the cases.

    Attributes:
        tool: one of TOOLS, or "none" for a run without a sanitizer.
        launches: launches of each kernel.
        failed: cases that did not run, with the error.
        errors: errors that the tool reported; -1 when it gave no summary.
        kernels_at_fault: kernels that the reports name.
        report: the beginning of what the tool said.
        seconds: wall time.
    """

    tool: str
    launches: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    errors: int = 0
    kernels_at_fault: list[str] = field(default_factory=list)
    report: list[str] = field(default_factory=list)
    seconds: float = 0.0


def sanitizer_command(tool: str) -> list[str]:
    """The command line in front of Python; nothing without a tool."""
    if tool == "none":
        return []
    options = ["--error-exitcode", str(ERRORS_FOUND), "--target-processes", "application-only"]
    return ["compute-sanitizer", "--tool", tool, "--report-api-errors", "no", "--print-limit", "100", *options]


def run_part(tool: str, arguments: list[str], seconds: float) -> Part:
    """Run this script as a child under a tool."""
    part, start = Part(tool), time.monotonic()
    # Without torch's caching allocator every tensor is an allocation of its own, so that its end is known to the tools.
    environment = os.environ | ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool != "none" else {})
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        command = [*sanitizer_command(tool), sys.executable, str(Path(__file__).resolve()), "--answer", answer.name]
        try:
            done = subprocess.run(
                [*command, *arguments], capture_output=True, text=True, timeout=seconds, env=environment
            )
            output, status = done.stdout + done.stderr, done.returncode
        except FileNotFoundError:
            output, status = f"{command[0]} is not installed", 127
        except subprocess.TimeoutExpired as late:
            output, status = f"{_text(late.stdout)}{_text(late.stderr)}\nno end within {seconds:.0f} s", 124
        content = answer.read()
    if content:
        found = json.loads(content)
        part.launches, part.failed = found["launches"], found["failed"]
    else:
        part.failed = [f"no answer, exit status {status}: {' / '.join(output.strip().splitlines()[-3:])[:400]}"]
    if tool != "none":
        read_report(part, output)
    if status == ERRORS_FOUND and part.errors == 0:
        part.errors = -1
    part.seconds = round(time.monotonic() - start, 1)
    return part


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def read_report(part: Part, output: str) -> None:
    """Read a tool's output: errors counted, kernels named, the beginning kept."""
    lines = [line[9:].rstrip() for line in output.splitlines() if line.startswith("=========")]
    summary = re.search(r"ERROR SUMMARY: (\d+) error", output)
    # Of races, warnings count as well.
    hazards = re.search(r"RACECHECK SUMMARY: (\d+) hazards? displayed", output)
    found = hazards or summary
    part.kernels_at_fault = sorted(set(re.findall(r"\bat (\w+)(?:\([^)\n]*\))?\+0x", "\n".join(lines))))
    part.errors = int(found.group(1)) if found else -1
    part.report = [line for line in lines if line.strip() and "COMPUTE-SANITIZER" not in line][:14]


def run_cases(options: argparse.Namespace) -> dict[str, Any]:
    """The child: run a part of the cases, or a planted fault, and count launches."""
    import torch
    from sanitizing.cases import all_cases
    from sanitizing.coverage import counted_launches

    device, failed = torch.device("cuda"), []
    with counted_launches() as launches:
        if options.fault:
            from sanitizing.planted import run_fault

            run_fault(options.fault, device)
        else:
            chosen = list(all_cases().items())[options.part :: options.parts]
            for position, (name, case) in enumerate(chosen):
                try:
                    case(device)
                    torch.cuda.synchronize()
                except Exception as error:
                    failed.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
                    if isinstance(error, RuntimeError) and "CUDA" in str(error):
                        failed += [f"{later}: not run, the context is broken" for later, _ in chosen[position + 1 :]]
                        break
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        failed.append(f"at the end: {' '.join(str(error).split())[:200]}")
    return {"launches": dict(launches), "failed": failed}


def run_tool(tool: str, parts: int, seconds: float, pool: ThreadPoolExecutor) -> list[Any]:
    """Start a tool on every part of the cases."""
    return [pool.submit(run_part, tool, ["--part", str(part), "--parts", str(parts)], seconds) for part in range(parts)]


def judge(parts: list[Part], kernels: set[str]) -> list[str]:
    """What is wrong with the parts of one tool; nothing when all is well."""
    launched: Counter[str] = Counter()
    for part in parts:
        launched.update(part.launches)
    missing = sorted(kernels - set(launched))
    problems = [f"not launched: {name}" for name in missing]
    for part in parts:
        problems += [f"did not run: {case}" for case in part.failed]
        if part.errors < 0:
            problems.append("the tool gave no summary: " + " / ".join(part.report[-3:]))
        elif part.errors:
            problems.append(f"{part.errors} errors in {', '.join(part.kernels_at_fault) or 'unnamed kernels'}:")
            problems += [f"    {line}" for line in part.report]
    return problems


def show(tool: str, parts: list[Part], kernels: set[str], problems: list[str]) -> None:
    """Print a line for the tool, and its problems."""
    launches: Counter[str] = Counter()
    for part in parts:
        launches.update(part.launches)
    covered = len(kernels & set(launches))
    errors = sum(max(part.errors, 0) for part in parts)
    spent = max(part.seconds for part in parts)
    print(
        f"{tool:10} {covered:3d} of {len(kernels)} kernels, {sum(launches.values()):4d} launches, "
        f"{errors} errors, {spent:5.1f} s, {'FAILED' if problems else 'ok'}"
    )
    for line in problems[:24]:
        print(f"  {line}"[:200])
    sys.stdout.flush()


def sanitize(options: argparse.Namespace) -> int:
    from sanitizing.coverage import all_kernels

    kernels, start = all_kernels(), time.monotonic()
    print(f"{len(kernels)} kernels: {', '.join(sorted(kernels))}", flush=True)
    found: dict[str, list[Part]] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        stages = [("none",), () if options.compile_only else tuple(options.tools)]
        for stage in stages:
            pending = {tool: run_tool(tool, options.parts, options.seconds, pool) for tool in stage}
            for tool, futures in pending.items():
                found[tool] = [future.result() for future in futures]
                show(tool, found[tool], kernels, judge(found[tool], kernels))
    problems = {tool: judge(parts, kernels) for tool, parts in found.items()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = {
            tool: {"problems": problems[tool], "parts": [asdict(part) for part in found[tool]]} for tool in found
        }
        options.out.write_text(json.dumps({"kernels": sorted(kernels), "tools": content}, indent=1))
    print(f"{time.monotonic() - start:.0f} s in all", flush=True)
    return 1 if any(problems.values()) else 0


def self_check(options: argparse.Namespace) -> int:
    """Plant a fault for each tool; 0 when every tool reports its own."""
    run_part("none", ["--part", "0", "--parts", "1000"], options.seconds)
    silent = []
    with ThreadPoolExecutor(options.jobs) as pool:
        parts = list(pool.map(lambda tool: run_part(tool, ["--fault", tool], options.seconds), options.tools))
    for part in parts:
        reported = part.errors > 0 and f"planted_{part.tool}" in part.kernels_at_fault
        first = next((line.strip() for line in part.report), "nothing")
        print(f"{part.tool:10} {'reports' if reported else 'DOES NOT REPORT'} the planted fault: {first}"[:160])
        if not reported:
            silent.append(part.tool)
            print(*(f"  {line}"[:200] for line in [*part.failed, *part.report]), sep="\n")
    return 1 if silent else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="full detail as JSON")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--parts", type=int, default=4, help="processes per tool")
    parser.add_argument("--jobs", type=int, default=16, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=150, help="limit of a process")
    parser.add_argument("--compile-only", action="store_true", help="run every case without a sanitizer, and stop")
    parser.add_argument("--self-check", action="store_true", help="plant a fault for each tool")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--fault", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        options.answer.write_text(json.dumps(run_cases(options)))
        return 0
    return self_check(options) if options.self_check else sanitize(options)


if __name__ == "__main__":
    sys.exit(main())
