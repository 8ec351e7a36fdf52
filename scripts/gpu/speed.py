"""What a token costs with the plugin beside vLLM's native path: prefill, decoding, and where a step's time goes.

    tar -xf build/gpu/vllm.tar.xz -C build/gpu
    PYTHONPATH=build/gpu/site:.:kernels python scripts/gpu/speed.py --out speed

The model is what one of eight tensor-parallel ranks computes of GLM-5 or DeepSeek-V3.2 (its heads, its part of every
expert; bf16 dummy weights), with fewer layers and no other ranks. Each case is a process of its own with CUDA graphs;
all start side by side, then one after another has the GPU to itself:
  native     DSA_DOCTOR_PLUGIN=off: the wheel's FlashMLA and DeepGEMM
  forced     DSA_DOCTOR_PLUGIN=force: the plugin's backend and indexer, compiled for this GPU
  emulated   compute capability 8.0 reported to vLLM and PTX whose own target is sm_80, assembled for this GPU
While they start, prove.py compares the same three: figures of a path whose answers differ are not shown. Nothing of it
is a run on an A100.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

import prove  # noqa: E402

CASE = Path(__file__).with_name("speed_case.py")
PROOF = Path(__file__).with_name("prove.py")
CASES = ("native", "forced", "emulated")
SHAPES = ((2048, 1), (2048, 8), (2048, 32), (32768, 1), (32768, 8), (131072, 1))


@dataclass
class Running:
    """A case that was started.

    Attributes:
        found: what it answered, or why it failed; empty while it runs.
    """

    name: str
    process: subprocess.Popen[bytes]
    ready: Path
    turn: Path
    answer: Path
    log: Path
    found: dict[str, Any] = field(default_factory=dict)

    def is_over(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def end(self, why: str) -> None:
        """Keep its answer; where there is none, the reason why it has none."""
        if not self.is_over():
            self.process.kill()
            self.process.wait()
        if self.answer.exists():
            self.found = json.loads(self.answer.read_text())
        else:
            self.found = {"failed": why or prove.last_error(self.log.read_text(errors="replace"))}


def start(name: str, settings: dict[str, Any], cache: Path) -> Running:
    """Start one case; its engine is ready when the file `ready` is there."""
    folder = Path(tempfile.mkdtemp(dir=cache))
    asked = folder / "settings.json"
    asked.write_text(json.dumps({**settings, "case": name}))
    ready, turn, answer, log = (folder / one for one in ("ready", "turn", "answer.json", "log.txt"))
    like = prove.Settings(name, True, False, settings["kv_cache_dtype"], False, 1)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(CASE), str(asked), str(ready), str(turn), str(answer)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=prove.environment_of(like, cache),
        )
    return Running(name, process, ready, turn, answer, log)


def wait_for_all(running: list[Running], proof: "subprocess.Popen[str] | None", deadline: float) -> None:
    """Wait until every engine is ready or its process over, and the proof done."""
    while time.monotonic() < deadline:
        waiting = [one for one in running if not one.ready.exists() and not one.is_over()]
        if not waiting and (proof is None or proof.poll() is not None):
            return
        time.sleep(0.1)


def take_turns(running: list[Running], deadline: float) -> None:
    """Let one case after another measure."""
    for one in running:
        if not one.ready.exists():
            one.end("" if one.is_over() else "its engine was not ready in time")
            continue
        one.turn.touch()
        while not one.is_over() and time.monotonic() < deadline:
            time.sleep(0.1)
        one.end("" if one.is_over() else "no answer in time")


def our_kernels() -> frozenset[str]:
    """Return the names of all Triton and Gluon functions of dsa_kernels, as a profile shows them."""
    import ast

    sources = (Path(__file__).parents[2] / "kernels" / "dsa_kernels").rglob("*.py")
    trees = [ast.parse(path.read_text()) for path in sources]
    return frozenset(
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(one) for one in node.decorator_list)
    )


def parts(shape: dict[str, Any], names: frozenset[str]) -> dict[str, float]:
    """Return the microseconds of a decoding step in our kernels, in all others, and in which none runs.

    Two that run side by side count both, so that the three may be more than the step.
    """
    ours = sum(spent for name, (spent, _) in shape["kernels"].items() if name in names)
    others = sum(spent for spent, _ in shape["kernels"].values()) - ours
    return {"ours": ours, "others": others, "idle": shape["token_s"]["median"] * 1e6 - shape["busy_us"]}


def table(found: dict[str, dict[str, Any]], names: frozenset[str]) -> list[str]:
    """Return a row per shape and case: seconds and spread, the ratio to native, and the parts of a decoding step."""
    lines = [
        "| context | requests | case | prefill, s | tokens/s | of native | ms a step | of native | tokens/s |"
        " launches a step | our kernels, us | others, us | none runs, us |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    served = {name: one for name, one in found.items() if "failed" not in one}
    count = max((len(one["shapes"]) for one in served.values()), default=0)
    for at in range(count):
        for name, one in served.items():
            shape = one["shapes"][at]
            native = served["native"]["shapes"][at] if "native" in served else None
            prefill, step = shape["prefill_s"], shape["token_s"]
            spent = parts(shape, names)
            launches = sum(launched for _, launched in shape["kernels"].values())
            lines.append(
                f"| {shape['context']:,} | {shape['requests']} | {name} | {shown(prefill, 1)} "
                f"| {shape['context'] * shape['requests'] / prefill['median']:,.0f} "
                f"| {ratio(prefill, native and native['prefill_s'])} "
                f"| {shown(step, 1000)} | {ratio(step, native and native['token_s'])} "
                f"| {shape['requests'] / step['median']:,.0f} | {launches:,.0f} "
                f"| {spent['ours']:,.0f} | {spent['others']:,.0f} | {spent['idle']:,.0f} |"
            )
    return lines


def shown(measured: dict[str, float], scale: float) -> str:
    """Return a median with its spread."""
    middle, least, most = (measured[key] * scale for key in ("median", "min", "max"))
    return f"{middle:.3f} ({least:.3f} to {most:.3f})"


def ratio(measured: dict[str, float], native: dict[str, float] | None) -> str:
    """Return how many times as long as natively, or a dash where there is nothing to compare with."""
    return f"{measured['median'] / native['median']:.2f}" if native else "–"


def largest(shape: dict[str, Any], count: int = 12) -> list[str]:
    """Return the kernels that take most of a decoding step."""
    step = shape["token_s"]["median"] * 1e6
    ordered = sorted(shape["kernels"].items(), key=lambda one: -one[1][0])[:count]
    return [f"{spent:8.1f} us {spent / step:6.1%} {launched:6.1f} x {name[:90]}" for name, (spent, launched) in ordered]


def prove_first(out: Path, kv_cache_dtype: str) -> "subprocess.Popen[str]":
    """Start prove.py with the cases whose time is taken."""
    asked = ["--graphs", "on", "off", "--mtp", "off", "--kv-cache-dtypes", kv_cache_dtype, "--jobs", "8"]
    command = [sys.executable, str(PROOF), "--out", str(out / "proof"), *asked]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("speed"), help="folder for speed.json and log.txt")
    parser.add_argument("--model", default="GLM-5", help="GLM-5 (8 heads a rank) or DeepSeek-V3.2 (16)")
    parser.add_argument("--ranks", type=int, default=8, help="tensor-parallel ranks that the model is cut for")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8_ds_mla"), default="auto")
    parser.add_argument("--shapes", nargs="+", default=[f"{context}x{requests}" for context, requests in SHAPES])
    parser.add_argument("--chunk", type=int, default=8192, help="tokens that one step prefills at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-proof", action="store_true", help="the same path was compared before")
    parser.add_argument("--timeout", type=float, default=540, help="seconds for all of it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.timeout
    settings = {name: getattr(options, name) for name in ("model", "ranks", "layers", "kv_cache_dtype", "chunk")}
    shapes = [tuple(int(part) for part in text.split("x")) for text in options.shapes]
    settings |= {"shapes": shapes, "repeats": options.repeats}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        proof = None if options.no_proof else prove_first(options.out, options.kv_cache_dtype)
        running = [start(name, settings, Path(cache)) for name in options.cases]
        wait_for_all(running, proof, deadline - 60)
        proved = proof is None or proof.poll() == 0
        if proof is not None:
            proof.kill()
            print(proof.communicate()[0], flush=True)
        take_turns(running, deadline)
        with (options.out / "log.txt").open("w") as log:
            for one in running:
                log.write(f"===== {one.name}\n{one.log.read_text(errors='replace')[-40000:]}\n")
    found = {one.name: one.found for one in running}
    (options.out / "speed.json").write_text(
        json.dumps({"settings": settings, "proved": proved, "cases": found}, indent=1)
    )
    return report(found, proved)


def report(found: dict[str, dict[str, Any]], proved: bool) -> int:
    """Print what was found; return 0 where every case was measured and its answers agree with the native path."""
    failed = {name: one["failed"] for name, one in found.items() if "failed" in one}
    for name, why in failed.items():
        print(f"{name} FAILED: {why}")
    if not proved:
        print("prove.py found answers that differ or did not end: these figures do not count")
        return 1
    names = our_kernels()
    print("\n".join(table(found, names)))
    for name, one in found.items():
        if name in failed:
            continue
        ours = [kernel for kernel in one["compiled_while_serving"] if kernel.startswith(prove.OURS)]
        print(f"\n{name}: {', '.join(one['backend'])}; of ours compiled while serving: {', '.join(ours) or 'none'}")
        for shape in one["shapes"]:
            print(f"  {shape['context']:,} tokens, {shape['requests']} requests")
            print("\n".join(f"    {line}" for line in largest(shape)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
