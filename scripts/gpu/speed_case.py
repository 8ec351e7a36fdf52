"""One case of speed.py, in a process of its own: a rank's model in one vLLM configuration, and how long it takes.

python scripts/gpu/speed_case.py SETTINGS.json READY TURN ANSWER.json

It writes READY once its engine has started, and measures when TURN is there: cases share the GPU, never the time.
"""

import functools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

import case  # noqa: E402
import rank_shape  # noqa: E402
import tiny  # noqa: E402

STEPS = 96
"""Tokens that a timed decoding generates after the first."""
PROFILED_STEPS = 8
BLOCK = 64


def prompts_of(context: int, requests: int, seed: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Return prompts of random tokens, alike in every case."""
    drawn = random.Random(f"{context} {requests} {seed}")
    return [{"prompt_token_ids": drawn.choices(range(3, vocabulary), k=context)} for _ in range(requests)]


def arguments_of_engine(settings: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of vLLM's LLM for this case."""
    requests = sorted({requests for _, requests in settings["shapes"]})
    tokens = max(requests * (context + STEPS + BLOCK) for context, requests in settings["shapes"])
    row_bytes = {"auto": 1152, "fp8_ds_mla": 656}[settings["kv_cache_dtype"]] + 132
    arguments: dict[str, Any] = {
        "model": str(rank_shape.write_model(Path(tempfile.mkdtemp()), config)),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "max_model_len": config["max_position_embeddings"],
        "max_num_seqs": max(requests),
        "max_num_batched_tokens": settings["chunk"],
        "block_size": BLOCK,
        # Cases share one GPU: what others hold must not count as this one's.
        "gpu_memory_utilization": 0.03,
        "kv_cache_memory_bytes": int(1.1 * tokens) * row_bytes * config["num_hidden_layers"] + (64 << 20),
        "enable_prefix_caching": True,
        "compilation_config": {"cudagraph_capture_sizes": requests},
        "attention_config": {"sparse_mla_force_mqa": True},
    }
    if settings["case"] == "native":
        arguments["attention_config"]["backend"] = "FLASHMLA_SPARSE"
    if settings["kv_cache_dtype"] != "auto":
        arguments["kv_cache_dtype"] = settings["kv_cache_dtype"]
    return arguments


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(llm: Any, sampling: Any, settings: dict[str, Any], vocabulary: int) -> list[dict[str, Any]]:
    """Measure every shape: prefill of unseen prompts, decoding behind a cached prefix, and one profile of decoding."""

    def seconds(prompts: list[dict[str, list[int]]], tokens: int) -> float:
        start = time.perf_counter()
        llm.generate(prompts, sampling(tokens), use_tqdm=False)
        return time.perf_counter() - start

    found = []
    for context, requests in settings["shapes"]:
        unseen = prompts_of(context, requests, 0, vocabulary)
        for tokens in (1, 1, 1 + STEPS):  # unseen and cached: compiles and tunes what is late
            seconds(unseen, tokens)
        repeats = settings["repeats"]
        prefill = []
        for seed in range(1, 1 + repeats):
            prompts = prompts_of(context, requests, seed, vocabulary)
            prefill.append(seconds(prompts, 1))
        seconds(prompts, 1)  # the prefix is cached by now
        decode = [(seconds(prompts, 1 + STEPS) - seconds(prompts, 1)) / STEPS for _ in range(repeats)]
        found.append(
            {
                "context": context,
                "requests": requests,
                "prefill_s": spread(prefill),
                "token_s": spread(decode),
                **one_step(functools.partial(seconds, prompts)),
            }
        )
        print(f"speed: {found[-1]}"[:300], flush=True)
    return found


def one_step(seconds: Callable[[int], float]) -> dict[str, Any]:
    """Return of one decoding step each kernel's microseconds and launches, and the microseconds in which any ran.

    They are those of a profile with `PROFILED_STEPS` steps more than another, which holds the short prefill alone.
    """
    long, short = profiled(lambda: seconds(1 + PROFILED_STEPS)), profiled(lambda: seconds(1))
    return {
        "kernels": {
            name: [(total - short.kernels.get(name, (0.0, 0))[at]) / PROFILED_STEPS for at, total in enumerate(totals)]
            for name, totals in long.kernels.items()
        },
        "busy_us": (long.busy_us - short.busy_us) / PROFILED_STEPS,
    }


@dataclass(frozen=True)
class Profile:
    """What ran on the GPU.

    Attributes:
        kernels: microseconds and launches in all, by name.
        busy_us: microseconds in which at least one ran; those of two streams side by side count once.
    """

    kernels: dict[str, tuple[float, int]]
    busy_us: float


def profiled(run: Callable[[], Any]) -> Profile:
    """Run under torch's profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        run()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    return summed([(event.name, event.time_range.start, event.time_range.end) for event in events])


def summed(events: list[tuple[str, float, float]]) -> Profile:
    """Sum events of a name, a start and an end in microseconds."""
    kernels: dict[str, tuple[float, int]] = {}
    busy, until = 0.0, float("-inf")
    for name, start, end in sorted(events, key=lambda event: event[1]):
        spent, launches = kernels.get(name, (0.0, 0))
        kernels[name] = (spent + end - start, launches + 1)
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return Profile(kernels, busy)


def serve(settings: dict[str, Any], ready: Path, turn: Path) -> dict[str, Any]:
    """Start the engine, wait for the turn, measure."""
    sys.path[:0] = [str(tiny.REPOSITORY), str(tiny.REPOSITORY / "kernels")]
    compiled = tiny.count_compilations()
    import torch
    import triton
    import vllm
    from vllm import LLM, SamplingParams

    if settings["case"] == "emulated":
        # Its import has DSA_KERNELS_EMULATE act before vLLM compiles a kernel.
        import dsa_kernels  # noqa: F401

        case.emulate_capability_8_0()
    from dsa_doctor.plugin import register

    register()
    longest = max(context for context, _ in settings["shapes"]) + STEPS + 2 * BLOCK
    config = rank_shape.rank_config(settings["model"], settings["ranks"], settings["layers"], longest)
    start = time.monotonic()
    llm = LLM(**arguments_of_engine(settings, config))
    started, warm = time.monotonic() - start, compiled()
    ready.write_text(f"{started:.1f}")
    print(f"speed: engine ready after {started:.1f} s", flush=True)
    while not turn.exists():
        time.sleep(0.05)

    def sampling(tokens: int) -> Any:
        return SamplingParams(temperature=0, max_tokens=tokens, detokenize=False, ignore_eos=True)

    shapes = measure(llm, sampling, settings, config["vocab_size"])
    layers = llm.llm_engine.vllm_config.compilation_config.static_forward_context.values()
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "gpu": torch.cuda.get_device_name(),
        "backend": sorted({layer.attn_backend.get_name() for layer in layers if hasattr(layer, "impl")}),
        "seconds_to_start": round(started, 1),
        "compiled_while_serving": compiled()[len(warm) :],
        "config": config,
        "shapes": shapes,
    }


if __name__ == "__main__":
    asked, ready_file, turn_file, answer_file = (Path(argument) for argument in sys.argv[1:])
    answer = serve(json.loads(asked.read_text()), ready_file, turn_file)
    answer_file.write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # the engine's teardown is not what is measured, and may hang beside other processes
