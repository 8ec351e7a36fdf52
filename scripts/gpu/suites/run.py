"""FlashMLA's sparse tests and DeepGEMM's attention tests, unchanged, against the ops of dsa_kernels.

    PYTHONPATH=kernels python scripts/gpu/suites/run.py --flash-mla FOLDER --deep-gemm FOLDER --out suites.json

FOLDER is a checkout of that project, or its tests/ (for DeepGEMM also deep_gemm/testing and deep_gemm/utils): nothing
of them is in this repository. Their imports of flash_mla, deep_gemm and kernelkit meet the packages in standins/, whose
docstrings say what is bridged. Cases run in an order of which every beginning is spread evenly, until --seconds are
over; timing parts are left out. Exit status 1 when a case fails or a suite passes none.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "kernels"
sys.path[:0] = [str(HERE), str(KERNELS)]

SHARES = {"FlashMLA sparse prefill": 3, "FlashMLA sparse decoding": 4, "DeepGEMM ragged logits": 2}
"""Parts of the time that suites get; 3 where a suite is not named."""

DIFFERENCES = (
    "FlashMLA's lse of a token with nothing valid is +inf, ours -inf: the stand-in converts",
    "FlashMLA's decode lse is [batch, heads, s_q], ours [tokens, heads]; its fp8 cache is float8_e4m3fn, ours uint8",
    "DeepGEMM cleans full-width logits only; schedules are ignored; timing parts are left out",
)


@dataclass
class Outcome:
    """What became of a case: passed, failed, ran (nothing is checked), skipped or not reached."""

    suite: str
    name: str
    status: str
    remark: str = ""
    seconds: float = 0.0


def spread(count: int) -> list[int]:
    """0 … count - 1 in an order of which every beginning is spread evenly (bit reversal)."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(format(number, f"0{bits}b")[::-1], 2) for number in range(2**bits))
    return [number for number in reversed_bits if number < count]


@contextlib.contextmanager
def flash_mla_settings(device: str) -> Iterator[None]:
    """The defaults that FlashMLA's test files set before they run."""
    import torch

    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.bfloat16)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])


def run_case(case: Any, device: str) -> Outcome:
    """Run one case; never raises."""
    import torch
    from cases import FLASH_MLA, SKIPPED_BY_SUITE, UNCHECKED

    settings = flash_mla_settings(device) if case.suite in FLASH_MLA else contextlib.nullcontext()
    printed, status, start = io.StringIO(), "passed", time.monotonic()
    try:
        with settings, contextlib.redirect_stdout(printed):
            remark = case.run()
            if device != "cpu":
                torch.cuda.synchronize()
        status = {UNCHECKED: "ran", SKIPPED_BY_SUITE: "skipped"}.get(remark, status)
    except AssertionError as error:
        numbers = [line for line in printed.getvalue().splitlines() if not line.startswith(("=====", "Running on"))]
        status, remark = "failed", " | ".join([str(error) or "assertion", _place(error), *numbers])
    except torch.OutOfMemoryError as error:
        ours = any("dsa_kernels" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
        status, remark = ("failed", str(error)) if ours else ("skipped", "out of memory in the suite's own code")
    except Exception as error:
        status, remark = "failed", f"{type(error).__name__}: {error} | {_place(error)}"
    return Outcome(case.suite, case.name, status, remark[:1500], round(time.monotonic() - start, 3))


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def context_is_broken() -> bool:
    """Whether an earlier kernel has broken the CUDA context, so that nothing after it means anything."""
    import torch

    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError:
        return True
    return False


def run_suites(cases: list[Any], seconds: float, device: str) -> list[Outcome]:
    """Skip what our ops cannot take, and run the rest until the time is over, each suite for its share of it."""
    outcomes = [Outcome(case.suite, case.name, "skipped", case.skip) for case in cases if case.skip]
    suites = {case.suite: [] for case in cases if not case.skip}  # type: dict[str, list[Any]]
    for case in cases:
        if not case.skip:
            suites[case.suite].append(case)
    left, weights = seconds, {suite: SHARES.get(suite, 3) for suite in suites}
    for suite, members in suites.items():
        share = left * weights[suite] / sum(weights[one] for one in list(suites)[list(suites).index(suite) :])
        start = time.monotonic()
        for position in spread(len(members)):
            case = members[position]
            if time.monotonic() - start > share:
                outcomes.append(Outcome(suite, case.name, "not reached"))
                continue
            outcomes.append(run_case(case, device))
            if outcomes[-1].status == "failed" and device != "cpu" and context_is_broken():
                outcomes[-1].remark += " | the CUDA context is broken: nothing was run after this case"
                return outcomes
        left -= time.monotonic() - start
    return outcomes


def summarise(outcomes: list[Outcome]) -> list[str]:
    """A compact table, the reasons of what was skipped, and the failures."""
    states = ("passed", "failed", "ran", "not reached", "skipped")
    lines = [f"{'suite':28}" + "".join(f"{state:>12}" for state in states) + f"{'seconds':>10}"]
    for suite in dict.fromkeys(one.suite for one in outcomes):
        members = [one for one in outcomes if one.suite == suite]
        counts = [sum(one.status == state for one in members) for state in states]
        spent = sum(one.seconds for one in members)
        lines.append(f"{suite:28}" + "".join(f"{count:12d}" for count in counts) + f"{spent:10.1f}")
    reasons: dict[tuple[str, str], int] = {}
    for one in outcomes:
        if one.status == "skipped":
            reasons[one.suite, one.remark] = reasons.get((one.suite, one.remark), 0) + 1
    lines += [f"  skipped {count:5d}  {suite}: {reason}" for (suite, reason), count in reasons.items()]
    failures = [one for one in outcomes if one.status == "failed"]
    lines += [f"FAILED {one.suite}: {one.name}: {one.remark}"[:320] for one in failures[:12]]
    return lines + ([f"... and {len(failures) - 12} more failures"] if len(failures) > 12 else [])


def verdict(outcomes: list[Outcome], skipped_suites: frozenset[str]) -> bool:
    """Whether nothing failed and every suite that our ops can take passed at least one case."""
    if any(one.status == "failed" for one in outcomes) or not outcomes:
        return False
    suites = {one.suite for one in outcomes} - skipped_suites
    return all(any(one.status == "passed" for one in outcomes if one.suite == suite) for suite in suites)


def compile_one(job: tuple[str, dict[str, Any]]) -> str:
    """Compile the kernels of one shape class; a line for what went wrong, or ""."""
    name, arguments = job
    try:
        import torch

        import dsa_kernels

        getattr(dsa_kernels, name)(**arguments)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{name}({arguments}): {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def compile_jobs(cases: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The warm-ups that cover the cases, from their parameters."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for case in cases:
        fields = dict(word.split("=", 1) for word in case.name.split() if "=" in word and word.count("=") == 1)
        arguments: dict[str, Any]
        if case.skip:
            continue
        if case.suite.startswith("FlashMLA"):
            decoding = case.suite.endswith("decoding")
            arguments = {"num_heads": int(fields.get("h_q", 128)), "head_dim": 576 if decoding else _width(fields)}
            if decoding:
                arguments |= {"kv_formats": ["fp8_ds_mla"], "page_size": int(fields.get("block_size", 64))}
            job = "warmup_sparse_mla", arguments
        else:
            job = "warmup_indexer", {"num_heads": 64, "next_n": 4, "page_size": int(fields.get("blocksize", 64))}
        found[json.dumps(job)] = job
    return list(found.values())


def _width(fields: dict[str, str]) -> int:
    return int(fields.get("d_qk", 512))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flash-mla", type=Path, metavar="FOLDER")
    parser.add_argument("--deep-gemm", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("suites.json"), metavar="FILE")
    parser.add_argument("--seconds", type=float, default=90, help="for running cases, shared by the suites")
    parser.add_argument("--ops", choices=("kernels", "naive"), default="kernels", help="naive: our references instead")
    parser.add_argument("--only", default="", help="only cases whose suite and name contain this text")
    parser.add_argument("--cpu", action="store_true", help="without a GPU: CUDA tensors become CPU tensors")
    parser.add_argument("--compile-only", action="store_true", help="compile the kernels that the cases need, and stop")
    parser.add_argument("--jobs", type=int, default=8, help="processes that compile")
    options = parser.parse_args()
    if options.flash_mla is None and options.deep_gemm is None:
        parser.error("name --flash-mla FOLDER, --deep-gemm FOLDER or both: checkouts of those projects")
    os.environ["DSA_SUITE_OPS"] = options.ops
    if options.cpu:
        from on_cpu import cuda_on_cpu

        with cuda_on_cpu():
            return judge(options, "cpu")
    return judge(options, "cuda:0")


def judge(options: argparse.Namespace, device: str) -> int:
    import torch
    from cases import GEMM, deep_gemm_cases, flash_mla_cases

    cases = flash_mla_cases(options.flash_mla) if options.flash_mla else []
    cases += deep_gemm_cases(options.deep_gemm) if options.deep_gemm else []
    cases = [case for case in cases if options.only in f"{case.suite} {case.name}"]
    start = time.monotonic()
    if options.compile_only:
        jobs = compile_jobs(cases)
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            problems = [problem for problem in pool.map(compile_one, jobs) if problem]
        print(*problems, f"compiled {len(jobs)} shape classes in {time.monotonic() - start:.0f} s", sep="\n")
        return 1 if problems else 0
    outcomes = run_suites(cases, options.seconds, device)
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    found = {"device": name, "torch": torch.__version__, "ops": options.ops, "differences": DIFFERENCES}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found | {"cases": [asdict(one) for one in outcomes]}, indent=1))
    print(f"{name}, torch {torch.__version__}, ops: {options.ops}, {time.monotonic() - start:.0f} s")
    print(*summarise(outcomes), *(f"  bridged: {line}" for line in DIFFERENCES), sep="\n", flush=True)
    return 0 if verdict(outcomes, frozenset({GEMM})) else 1


if __name__ == "__main__":
    sys.exit(main())
