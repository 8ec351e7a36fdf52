"""The plugin against vLLM's native path on one Hopper GPU: log-probabilities side by side, and what compiles when.

    tar -xf build/gpu/vllm.tar.xz -C build/gpu
    PYTHONPATH=build/gpu/site:.:kernels python scripts/gpu/prove.py --out proof

Each case is a process of its own with a tiny model (dummy weights, no network); several run side by side:
  native     DSA_DOCTOR_PLUGIN=off: the wheel's FlashMLA and DeepGEMM
  control    the same once more: how far the native path is from itself
  forced     DSA_DOCTOR_PLUGIN=force: the plugin's backend and indexer, compiled for this GPU
  emulated   compute capability 8.0 reported to vLLM and DSA_KERNELS_EMULATE=sm80: selection, Triton's sm80 code path
             with its refusal of float8e4nv, and PTX whose own target is sm_80, assembled for this GPU
  misled     forced, with the smallest logits selected instead of the largest: this one must differ, or the others'
             agreement says nothing; without CUDA graphs and MTP only
  rounded    of DeepSeek-V4, forced: rows rounded as natively they are stored, since natively there are none of bf16;
             it must be much nearer to native than forced is
with CUDA graphs and without, MTP on and off, and a KV cache of bf16 and of fp8_ds_mla. Compared are the
log-probabilities of fixed prompts (teacher forced, so that one differing token does not hide the rest) and greedy
tokens. Nothing of it is a run on an A100.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

import tiny  # noqa: E402

CASE = Path(__file__).with_name("case.py")
CASES = ("native", "control", "forced", "emulated", "misled", "rounded")
MODES = {
    "native": "off",
    "control": "off",
    "forced": "force",
    "emulated": "auto",
    "misled": "force",
    "rounded": "force",
}
MEAN_LIMIT, MOST_LIMIT = 0.15, 1.0
"""Mean and largest absolute difference of a prompt token's log-probability; a wrong selection makes about 0.7 and 5."""
NOISE_FACTOR = 1.5
"""How many times as far from the native path as that path is from itself, with CUDA graphs and without, on average."""
LEAST_SPREAD = 0.3
"""Standard deviation of the native log-probabilities: where all tokens are alike, agreement says nothing."""
WHOLE_PROMPTS = 2
"""Prompts of every model that select all there is; the longer ones select."""
SELECTING_FACTOR = 1.15
"""How many times as far from native a selecting prompt may be as those that select everything, of the newer families:
natively their other kernels (another cache dtype, another linear attention) round otherwise, whatever is selected."""
ROUNDED_SHARE = 0.5
"""The part of forced's distance that may be left once rows are rounded as natively."""
OURS = ("dsa_kernels", "dsa_doctor")


@dataclass(frozen=True)
class Settings:
    """What distinguishes one case."""

    case: str
    graphs: bool
    mtp: bool
    kv_cache_dtype: str
    fp8_weights: bool
    tensor_parallel_size: int
    model: str = "glm-dsa"
    profile: bool = False

    def name(self) -> str:
        """Return the name in tables, 40 characters at most."""
        parts = [self.case, "graphs" if self.graphs else "eager", "mtp" if self.mtp else "-", self.kv_cache_dtype]
        return " ".join(f"{part:<8}" for part in parts).rstrip()

    def reference(self) -> "Settings":
        """Return the native case that this one is compared with; a native one with the plainest of its cache dtype."""
        plainest = self.case == "native"
        return Settings(
            "native",
            self.graphs and not plainest,
            self.mtp and not plainest,
            self.kv_cache_dtype,
            self.fp8_weights,
            self.tensor_parallel_size,
            self.model,
            self.profile,
        )


def planned(options: argparse.Namespace) -> list[Settings]:
    """Return the cases asked for, the plainest first."""
    modes = itertools.product(options.kv_cache_dtypes, options.mtp, options.graphs)
    return [
        Settings(
            case,
            graphs == "on",
            mtp == "on",
            dtype,
            options.fp8_weights,
            options.tensor_parallel_size,
            options.model,
            options.profile,
        )
        for dtype, mtp, graphs in modes
        for case in options.cases
        if (case != "control" or mtp == "off" or graphs == "on")
        and (case not in ("misled", "rounded") or (mtp == "off" and graphs == "off"))
        and (case != "rounded" or options.model == "deepseek-v4")
    ]


def environment_of(settings: Settings, cache: Path) -> dict[str, str]:
    """Return the variables of a case's process; Triton's cache is its own, DeepGEMM's is shared."""
    variables = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DEEP_GEMM_WARMUP": "skip",
        # The archive holds no FlashInfer, and vLLM imports its sampler on Hopper unless told not to.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_CACHE_ROOT": str(cache / settings.name().replace(" ", "")),
        "DG_JIT_CACHE_DIR": str(cache / "deep_gemm"),
        "DSA_DOCTOR_PLUGIN": MODES[settings.case],
        "TRITON_CACHE_DIR": tempfile.mkdtemp(dir=cache),
        "TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(dir=cache),
        "TORCHINDUCTOR_COMPILE_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "PYTHONFAULTHANDLER": "1",
    }
    if settings.case == "emulated":
        variables["DSA_KERNELS_EMULATE"] = "sm80"
    return {**os.environ, **variables}


def run_case(settings: Settings, cache: Path, timeout: float) -> tuple[dict[str, Any], str]:
    """Run one case; return what came out and all that it printed."""
    folder = Path(tempfile.mkdtemp(dir=cache))
    asked, answer, log = folder / "settings.json", folder / "answer.json", folder / "log.txt"
    known = asdict(settings) | ({"case": "native"} if settings.case == "control" else {})
    asked.write_text(json.dumps(known))
    command = [sys.executable, str(CASE), str(asked), str(answer)]
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment_of(settings, cache),
            start_new_session=True,
        )
        try:
            process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # its log then says where it was
            time.sleep(2)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    printed = log.read_text(errors="replace")
    if answer.exists():
        found: dict[str, Any] = json.loads(answer.read_text())
    else:
        late = time.monotonic() - start >= timeout
        found = {"failed": f"no answer within {timeout:.0f} s" if late else last_error(printed)}
    return {**found, "seconds": round(time.monotonic() - start, 1)}, printed


def last_error(printed: str) -> str:
    """Return the line of a process's output that tells best why it failed."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    # A worker's lines begin with its rank; those of torch's own log begin with [W or [E after it.
    lines = [line.partition("]: ")[2] if line.startswith("[rank") and "]: " in line else line for line in lines]
    errors = [line for line in lines if "Error" in line.partition(":")[0] and not line.startswith(("File", "raise"))]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Compare two cases token by token."""
    pairs = zip(one["prompt_logprobs"], other["prompt_logprobs"], strict=True)
    differences = [[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in pairs]
    flat = list(itertools.chain.from_iterable(differences))
    mean, most = statistics.fmean(flat), max(flat)
    spread = statistics.pstdev(itertools.chain.from_iterable(one["prompt_logprobs"]))
    return {
        "spread": spread,
        "mean": mean,
        "most": most,
        "mean_by_prompt": [statistics.fmean(row) for row in differences],
        "same_greedy_tokens": [
            sum(a == b for a, b in zip(*pair, strict=True)) / len(pair[0])
            for pair in zip(one["tokens"], other["tokens"], strict=True)
        ],
        "near": mean < MEAN_LIMIT and most < MOST_LIMIT and spread > LEAST_SPREAD,
    }


def noise_of_native(results: dict[Settings, dict[str, Any]], settings: Settings) -> float:
    """Return the largest mean distance of the native path from itself with this case's cache and weights.

    Zero where it was not compared with itself: nothing then agrees.
    """
    alike = [
        found["compared"]["mean"]
        for other, found in results.items()
        if is_native_of(other, settings) and "compared" in found
    ]
    return max(alike, default=0.0)


def is_native_of(other: Settings, settings: Settings) -> bool:
    """Whether one case is native, with the cache and the weights of another."""
    same = replace(other, case="", graphs=False, mtp=False) == replace(settings, case="", graphs=False, mtp=False)
    return same and other.case in ("native", "control")


def late_kernels(found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the Triton kernels compiled after the engine was ready: ours, and vLLM's."""
    late = [*found["compiled_while_scoring"], *found["compiled_while_serving"]]
    ours = [name for name in late if name.startswith(OURS)]
    return ours, [name for name in late if name not in ours]


def table(results: dict[Settings, dict[str, Any]]) -> list[str]:
    """Return one line per case: its backend, start, late compilations, and its distance from its native reference."""
    titles = f"{'case':<38} {'backend':<18} start  late ours/vllm/dg  mean |dlogp|   by prompt               most"
    lines = [titles + "    same greedy tokens  verdict"]
    for settings, found in results.items():
        if "failed" in found:
            lines.append(f"{settings.name():<38} {progress(found)}")
            continue
        ours, others = late_kernels(found)
        line = f"{settings.name():<38} {','.join(found['backend']):<18} {found['seconds_to_start']:5.0f}"
        line += f"  {len(ours):>4}/{len(others)}/{len(found['deep_gemm_compiled_while_serving']):<9}"
        compared = found.get("compared")
        if compared is None:
            lines.append(line + "   (no native case to compare with)")
            continue
        by_prompt = " ".join(f"{value:.5f}" for value in compared["mean_by_prompt"])
        same = " ".join(f"{value:.2f}" for value in compared["same_greedy_tokens"])
        line += f"   {compared['mean']:.6f}    {by_prompt}  {compared['most']:7.4f}    {same}"
        lines.append(f"{line}     {judgement(results, settings)}")
    return lines


def judgement(results: dict[Settings, dict[str, Any]], settings: Settings) -> str:
    """Return what to say of a case that was compared; capitals where it is not as it must be."""
    if settings.fp8_weights and settings.case == "emulated":
        return "not judged: below 8.9 the weights alone are fp8, natively the activations are too"
    if settings.fp8_weights and settings.case == "rounded":
        return "not judged: natively the output's first projection takes fp8 too"
    compared = results[settings]["compared"]
    if settings.case == "rounded":
        forced = results.get(replace(settings, case="forced"), {}).get("compared")
        if forced is None:
            return "not judged: the forced case is missing"
        return "agree" if compared["mean"] <= ROUNDED_SHARE * forced["mean"] else "DIFFER"
    newer = settings.model != "glm-dsa" and settings.case not in ("native", "control")
    agrees = compared["near"] and (
        selects_alike(compared) if newer else compared["mean"] <= NOISE_FACTOR * noise_of_native(results, settings)
    )
    if settings.case == "misled":
        return "AGREE" if agrees else "differ, as they must"
    if agrees:
        return "agree"
    if newer:
        return "DIFFER"
    modes = {other.graphs for other in results if is_native_of(other, settings)}
    # With graphs against without, native is farther from itself than from a second run.
    return "DIFFER" if len(modes) > 1 else "DIFFER, judged by half of native's noise: run --graphs off on"


def selects_alike(compared: dict[str, Any]) -> bool:
    """Whether prompts that select are no farther from native than those that select everything."""
    whole, selecting = compared["mean_by_prompt"][:WHOLE_PROMPTS], compared["mean_by_prompt"][WHOLE_PROMPTS:]
    return max(selecting) <= SELECTING_FACTOR * statistics.mean(whole)


def progress(found: dict[str, Any]) -> str:
    """Return what can be said of a case before all are done."""
    if "failed" in found:
        return f"FAILED after {found['seconds']} s: {found['failed'][:110]}"
    distance = f", mean distance {found['compared']['mean']:.6f}" if "compared" in found else ""
    return f"done in {found['seconds']:.0f} s{distance}"


def is_sound(results: dict[Settings, dict[str, Any]], settings: Settings) -> bool:
    """Whether a case ran, compiled nothing of ours late, and is as near its native reference as it must be."""
    found = results[settings]
    if "failed" in found or late_kernels(found)[0]:
        return False
    return "compared" not in found or judgement(results, settings).islower()


def compare_and_keep(ended: dict[Settings, dict[str, Any]], out: Path) -> dict[Settings, dict[str, Any]]:
    """Compare what can be compared by now and write proof.json, so that a run that is cut off leaves what it found.

    Returns:
        The cases about which all is known: failed, compared, or the reference itself.
    """
    known = {}
    for settings, found in ended.items():
        reference = ended.get(settings.reference())
        if "failed" in found:
            known[settings] = found
            continue
        if reference is None:
            continue
        known[settings] = found
        if reference is not found and "failed" not in reference:
            found["compared"] = compare(reference, found)
    written = out / "proof.json.new"
    written.write_text(json.dumps([{**asdict(settings), **found} for settings, found in ended.items()], indent=1))
    written.replace(out / "proof.json")
    return known


def gpus() -> int:
    """Return the number of GPUs, without initialising CUDA in this process."""
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return int(done.stdout.strip() or 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("proof"), help="folder for proof.json and log.txt")
    parser.add_argument("--model", choices=tiny.MODELS, default="glm-dsa", help="the family of the tiny model")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--graphs", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--mtp", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--kv-cache-dtypes", nargs="+", default=["auto", "fp8_ds_mla"])
    parser.add_argument("--profile", action="store_true", help="keep the kernels of a decoding step of 8 requests")
    parser.add_argument("--fp8-weights", action="store_true", help="FP8 block-quantised weights")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=14, help="cases that run side by side")
    parser.add_argument("--timeout", type=float, default=150, help="seconds per case")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    there = gpus()
    if there < options.tensor_parallel_size:
        print(f"skipped: --tensor-parallel-size {options.tensor_parallel_size} needs as many GPUs, {there} are here")
        return 0
    start = time.monotonic()
    plan = planned(options)
    ended: dict[Settings, dict[str, Any]] = {}
    told: set[Settings] = set()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache,
        (options.out / "log.txt").open("w") as log,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        running = {pool.submit(run_case, settings, Path(cache), options.timeout): settings for settings in plan}
        for done in as_completed(running):
            settings = running[done]
            ended[settings], printed = done.result()
            log.write(f"===== {settings.name()}\n{printed[:2000]}\n[...]\n{printed[-40000:]}\n")
            log.flush()
            known = compare_and_keep(ended, options.out)
            for one in known.keys() - told:
                print(f"{one.name():<38} {progress(known[one])}", flush=True)
            told |= known.keys()
    results = {settings: ended[settings] for settings in plan}
    compare_and_keep(results, options.out)
    print("\n".join(["", *table(results)]), flush=True)
    late = sorted({name for found in results.values() if "failed" not in found for name in late_kernels(found)[0]})
    others = sorted({name for found in results.values() if "failed" not in found for name in late_kernels(found)[1]})
    print(f"ours compiled while serving: {', '.join(late) or 'none'}; vLLM's: {', '.join(others)[:400] or 'none'}")
    print(f"{len(results)} cases in {time.monotonic() - start:.0f} s")
    return 0 if all(is_sound(results, settings) for settings in results) else 1


if __name__ == "__main__":
    sys.exit(main())
