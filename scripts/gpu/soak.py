"""Steady memory under mixed load: a vLLM server with the plugin forced, CUDA graphs and MTP on, for ten minutes.

    PYTHONPATH=build/gpu/site:.:kernels python scripts/gpu/soak.py start --state /tmp/soak --seconds 600
    PYTHONPATH=build/gpu/site:.:kernels python scripts/gpu/soak.py report --state /tmp/soak --out soak

`start` returns at once: the server and its load live in a session of their own, and end by themselves. `report` says
how far it is, or the verdict: after the first two minutes no growth of memory beyond the tolerances below, nothing of
ours compiled after the load began, no failed request, and the fixed probe prompt answered as at the beginning.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

import tiny  # noqa: E402

START_TIMEOUT = 400.0
INTERVAL = 10.0
SETTLING = 120.0
"""Seconds of load after which memory must not grow any more."""
TOLERANCES = {"torch_reserved": 16 << 20, "gpu_used": 32 << 20, "host_rss": 96 << 20}
"""Bytes of growth accepted from then to the end: of torch's pool, the server's memory on the GPU, and on the host."""
LOGPROB_TOLERANCE = 0.05
"""Between answers to the probe: a prefix hit is computed in other shapes than a cold prompt."""
METRICS = ("vllm:num_preemptions_total", "vllm:prefix_cache_hits_total", "vllm:spec_decode_num_draft_tokens_total")
OURS = ("dsa_kernels", "dsa_doctor")


def write_model(folder: Path) -> Path:
    """Write the tiny model's config.json and a tokenizer whose words are its token ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tiny.model_folder(folder)
    vocabulary = {f"t{number}": number for number in range(tiny.VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t1", pad_token="t2").save_pretrained(folder)
    return folder


def write_entry_point(folder: Path) -> Path:
    """Write what lets vLLM's processes load soak_worker."""
    described = folder / "soak_worker-1.0.dist-info"
    described.mkdir(parents=True, exist_ok=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: soak-worker\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[vllm.general_plugins]\nsoak_worker = soak_worker:register\n")
    return folder


def start_server(state: Path, port: int, mode: str) -> subprocess.Popen[bytes]:
    """Start `vllm serve` of the tiny model with a cache so small that requests get preempted."""
    options: dict[str, Any] = {
        "--host": "127.0.0.1",
        "--port": port,
        "--served-model-name": "tiny",
        "--load-format": "dummy",
        "--max-model-len": 4096,
        "--max-num-seqs": 16,
        "--max-num-batched-tokens": 1024,
        "--block-size": 64,
        "--gpu-memory-utilization": 0.05,
        "--kv-cache-memory-bytes": 512 << 20,
        "--num-gpu-blocks-override": 256,
        "--speculative-config": json.dumps({"method": "mtp", "num_speculative_tokens": 1}),
        "--attention-config": json.dumps({"sparse_mla_force_mqa": True}),
    }
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(write_model(state / "model"))]
    command += [str(part) for option in options.items() for part in option]
    paths = [str(write_entry_point(state / "entry")), str(HERE), str(tiny.REPOSITORY), str(tiny.REPOSITORY / "kernels")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # The archive holds no FlashInfer, and vLLM imports its sampler on Hopper unless told not to.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
        "VLLM_CACHE_ROOT": str(state / "cache"),
        "TRITON_CACHE_DIR": str(state / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(state / "inductor"),
        "DSA_DOCTOR_PLUGIN": mode,
        "SOAK_WORKER_LOG": str(state / "worker.jsonl"),
    }
    with (state / "server.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Return once the server answers.

    Raises:
        RuntimeError: it ended, or took too long.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"the server was not ready within {START_TIMEOUT:.0f} s")


def memory_of(server: subprocess.Popen[bytes]) -> dict[str, int]:
    """Return the bytes that the server's processes use on the GPU, and their resident memory.

    Where NVML does not tell processes apart, the first is what is in use on the GPU as a whole.
    """
    import psutil
    import pynvml

    root = psutil.Process(server.pid)
    pids, resident = set(), 0
    for process in (root, *root.children(recursive=True)):
        try:
            resident += process.memory_info().rss
            pids.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    theirs = [one.usedGpuMemory for one in pynvml.nvmlDeviceGetComputeRunningProcesses(device) if one.pid in pids]
    used = sum(theirs) if theirs and None not in theirs else pynvml.nvmlDeviceGetMemoryInfo(device).used
    return {"gpu_used": int(used), "host_rss": resident}


async def soak(state: Path, port: int, seconds: float, server: subprocess.Popen[bytes]) -> None:
    """Probe, load and sample; write a sample every ten seconds, and the probes' answers."""
    import aiohttp
    import soak_load

    counts, start = soak_load.Counts(), time.time()
    limits = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=limits, timeout=timeout) as session:
        probes = [await soak_load.probe(session) for _ in range(2)]
        load = asyncio.create_task(soak_load.drive(session, seconds, counts))
        load_start = time.time()
        while not load.done():
            await asyncio.wait([load], timeout=INTERVAL)
            text = await (await session.get("/metrics")).text()
            sample = {"time": time.time(), "since_load": time.time() - load_start, **memory_of(server), **vars(counts)}
            sample["triton_cache"] = len(list((state / "triton").glob("*")))
            sample["metrics"] = {name: metric(text, name) for name in METRICS}
            with (state / "samples.jsonl").open("a") as file:
                file.write(json.dumps(sample) + "\n")
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with {server.returncode} under load")
        await load
        await asyncio.sleep(5)
        probes += [await soak_load.probe(session) for _ in range(2)]
    found = {
        "probes": probes,
        "load_start": load_start,
        "load_end": time.time(),
        "seconds_to_start": load_start - start,
    }
    (state / "end.json").write_text(json.dumps(found))


def metric(text: str, name: str) -> float:
    """Return the sum of a Prometheus counter over its labels."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def drive(options: argparse.Namespace) -> int:
    """Run the server and the load to their end; the reason of a failure goes to failed.txt."""
    state: Path = options.state
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    server = start_server(state, port, options.plugin)
    try:
        wait_until_ready(server, port)
        asyncio.run(soak(state, port, options.seconds, server))
    except Exception as error:
        (state / "failed.txt").write_text(f"{type(error).__name__}: {error}")
        return 1
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
    return 0


def growth(times: list[float], values: list[float]) -> float:
    """Return how much a straight line fitted to the values grows from the first time to the last."""
    if len(times) < 2:
        return 0.0
    slope, _ = statistics.linear_regression(times, values)
    return slope * (times[-1] - times[0])


def probe_difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[int, float]:
    """Return how many leading tokens are the same, and the largest difference of their log-probabilities."""
    same = 0
    for a, b in zip(one["tokens"], other["tokens"], strict=True):
        if a != b:
            break
        same += 1
    pairs = list(zip(one["logprobs"][:same], other["logprobs"][:same], strict=True))
    return same, max((abs(a - b) for a, b in pairs), default=0.0)


def verdict(
    samples: list[dict[str, Any]], worker: list[dict[str, Any]], end: dict[str, Any]
) -> list[tuple[str, bool | None, str]]:
    """Judge a finished soak.

    Args:
        samples: of the driver, every ten seconds.
        worker: of the process that holds the GPU.
        end: the probes' answers, and when the load began and ended.

    Returns:
        (what, whether it holds or None where it is for information, figures) of each aim.
    """
    began = end["load_start"] + SETTLING
    series = {name: [(line["time"], line[name]) for line in samples] for name in ("gpu_used", "host_rss")}
    series["torch_reserved"] = [(line["time"], line["torch_reserved"]) for line in worker]
    found: list[tuple[str, bool | None, str]] = []
    for name, tolerance in TOLERANCES.items():
        late = [(at, value) for at, value in series[name] if began <= at <= end["load_end"]]
        if len(late) < 3:
            found.append((f"steady {name}", False, f"{len(late)} samples after the first {SETTLING:.0f} s: too few"))
            continue
        grown = growth([at for at, _ in late], [float(value) for _, value in late])
        last = f"{late[0][1] / 2**20:.0f} MiB at first, {late[-1][1] / 2**20:.0f} MiB at last"
        shown = f"{grown / 2**20:+.1f} MiB in {late[-1][0] - late[0][0]:.0f} s (at most {tolerance >> 20}), {last}"
        found.append((f"steady {name}", grown <= tolerance, shown))
    before = max((len(line["compiled"]) for line in worker if line["time"] <= end["load_start"]), default=0)
    late_kernels = worker[-1]["compiled"][before:] if worker else []
    ours = sorted({kernel for kernel in late_kernels if kernel.startswith(OURS)})
    others = sorted(set(late_kernels) - set(ours))
    found.append(("nothing of ours compiled under load", bool(worker) and not ours, ", ".join(ours) or "none"))
    found.append(("compiled by vLLM under load", None, ", ".join(others)[:300] or "none"))
    last_sample = samples[-1]
    requests = f"{last_sample['sent']} sent, {last_sample['completed']} completed, {last_sample['aborted']} given up, "
    requests += f"{last_sample['failed']} failed; {last_sample['metrics']}"
    found.append(("no failed request", last_sample["failed"] == 0 and last_sample["completed"] > 0, requests))
    for error in last_sample["errors"][:5]:
        found.append(("  failed request", None, error))
    compared = [probe_difference(end["probes"][0], other) for other in end["probes"][1:]]
    wanted = len(end["probes"][0]["tokens"])
    alike = all(same == wanted and most <= LOGPROB_TOLERANCE for same, most in compared)
    shown = "; ".join(f"{same}/{wanted} tokens, log-probability within {most:.4f}" for same, most in compared)
    found.append(("the probe is answered as at the beginning", alike, f"again, end, end again: {shown}"))
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(options: argparse.Namespace) -> int:
    """Print how far the soak is, or its verdict, and keep its files."""
    state: Path = options.state
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in ("samples.jsonl", "worker.jsonl", "server.log", "end.json", "failed.txt", "driver.log"):
            if (state / name).exists():
                shutil.copy(state / name, options.out / name)
    samples, worker = read_lines(state / "samples.jsonl"), read_lines(state / "worker.jsonl")
    for line in samples[:: max(1, len(samples) // 12)]:
        print(
            f"{line['since_load']:5.0f} s  GPU {line['gpu_used'] >> 20} MiB, host {line['host_rss'] >> 20} MiB, "
            f"{line['triton_cache']} kernels cached, {line['completed']} completed, {line['failed']} failed"
        )
    if not (state / "end.json").exists():
        failed = state / "failed.txt"
        if failed.exists():
            print(f"FAILED: {failed.read_text()}\n{(state / 'server.log').read_text(errors='replace')[-6000:]}")
            return 1
        print(f"under way: {samples[-1]['since_load']:.0f} s of load" if samples else "the server is starting")
        return 3
    judged = verdict(samples, worker, json.loads((state / "end.json").read_text()))
    for what, holds, shown in judged:
        print(f"{'      ' if holds is None else 'ok    ' if holds else 'FAILED'} {what}: {shown}")
    return 0 if all(holds is not False for _, holds, _ in judged) else 1


def start(options: argparse.Namespace) -> int:
    """Start the driver in a session of its own."""
    shutil.rmtree(options.state, ignore_errors=True)
    options.state.mkdir(parents=True)
    command = [sys.executable, __file__, "drive", "--state", str(options.state), "--seconds", str(options.seconds)]
    with (options.state / "driver.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--plugin", options.plugin],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    print(f"soaking for {options.seconds:.0f} s as process {process.pid}, state in {options.state}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("start", "report", "drive"))
    parser.add_argument("--state", type=Path, default=Path("/tmp/soak"), help="folder of the run")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--plugin", choices=("auto", "off", "force"), default="force")
    parser.add_argument("--out", type=Path, help="folder to keep the run's files in")
    options = parser.parse_args()
    options.state = options.state.absolute()
    return {"start": start, "report": report, "drive": drive}[options.step](options)


if __name__ == "__main__":
    sys.exit(main())
