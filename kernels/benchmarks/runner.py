"""What the benchmark scripts share: options, the run, the table and the JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from dsa_kernels.bench import Case, Machine, Result, measure, measure_machine
from dsa_kernels.bench.case import first_line
from dsa_kernels.bench.machine import describe_machine
from dsa_kernels.bench.record import as_record, headline, line, write_record

#: Makes a case, peers included, when its turn comes: only one case's inputs are in memory at a time.
Maker = Callable[[Machine], Case]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="write everything to this file, also after each shape")
    made.add_argument("--peers", type=Path, help="folder with what was taken out of a vLLM wheel (see peers.py)")
    made.add_argument("--no-peers", action="store_true", help="measure this project's ops alone")
    made.add_argument("--quick", action="store_true", help="a few shapes of each kind")
    made.add_argument("--milliseconds", type=float, default=60.0, help="sampling time of a shape; peers take half")
    made.add_argument("--compile-only", action="store_true", help="compile and gate everything, time nothing")
    return made


def run(benchmark: str, makers: Iterable[Maker], options: argparse.Namespace) -> int:
    """Gate, time and print each case; 1 when one was wrong or did not run, else 0."""
    if not torch.cuda.is_available():
        sys.exit(f"{benchmark}: no CUDA device; benchmarks need one. Without one: python -m dsa_kernels.aot")
    torch.manual_seed(0)
    machine = describe_machine() if options.compile_only else measure_machine(options.milliseconds)
    print(headline(machine), flush=True)
    results: list[Result] = []
    bad = 0
    for make in makers:
        try:
            case = make(machine)
        except torch.cuda.OutOfMemoryError as error:
            print(f"SKIPPED {first_line(error)}", flush=True)
            continue
        if options.compile_only:
            bad += compile_case(case)
            continue
        results.append(measure(case, machine, options.milliseconds))
        bad += results[-1].status != "ok"
        print(line(results[-1]), flush=True)
        if options.json:
            write_record(options.json, as_record(benchmark, machine, results))
        del case
        torch.cuda.empty_cache()
    for name, reason in missing_peers(results):
        print(f"not measured: {name}: {reason}")
    return int(bad > 0)


def compile_case(case: Case) -> bool:
    """Run a case and its peers once, through the gate; whether this project's op failed."""
    failed = False
    try:
        case.check()
    except Exception as error:
        print(f"FAILED {case.op} {case.shape}: {first_line(error)}", flush=True)
        failed = True
    for name, peer in case.peers.items():
        try:
            if not isinstance(peer, str):
                peer.check()
        except Exception as error:
            print(f"peer {name}, {case.op} {case.shape}: {first_line(error)}", flush=True)
    return failed


def missing_peers(results: list[Result]) -> list[tuple[str, str]]:
    """Each (peer, reason) once."""
    reasons = [(name, peer.message) for one in results for name, peer in one.peers.items() if peer.timing is None]
    return list(dict.fromkeys(reasons))
