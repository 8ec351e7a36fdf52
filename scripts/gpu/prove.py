"""The plugin against vLLM's native path on one Hopper GPU: log-probabilities side by side, and what compiles when.

    tar -xf build/gpu/vllm.tar.xz -C build/gpu
    PYTHONPATH=build/gpu/site python scripts/gpu/prove.py --out proof.json

Each case is a process of its own with a tiny model (dummy weights, no network):
  native     DSA_DOCTOR_PLUGIN=off: the wheel's own backend and DeepGEMM; recorded as failed where they cannot run
  forced     DSA_DOCTOR_PLUGIN=force: the plugin's backend and indexer, compiled for this GPU
  emulated   compute capability 8.0 reported to vLLM and TRITON_OVERRIDE_ARCH=sm80: selection, Triton's sm80 code path
             and its refusal of float8e4nv, on kernels that this GPU still loads
with CUDA graphs and without, and with MTP on and off. Compared are the log-probabilities of fixed prompts (teacher
forced, so that one differing token does not hide the rest) and greedy tokens. It is no run on an A100.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
CASES = ("native", "forced", "emulated")
INDEX_TOPK = 512
LENGTHS = (60, 700, 1900)
MAX_TOKENS = 24
MEAN_LIMIT, MOST_LIMIT = 0.02, 0.5
"""Mean and largest absolute difference of a prompt token's log-probability, all in bf16 with an fp8 indexer."""


def model_config(quantised: bool) -> dict[str, Any]:
    """Return the config.json of a three-layer GlmMoeDsa with an MTP layer."""
    sys.path[:0] = [str(REPOSITORY)]
    from tests.dsa_doctor.plugin.tiny_models import FP8, tiny_config

    said = {"indexer_rope_interleave": True, "index_topk": INDEX_TOPK}
    return tiny_config(**said, **({"quantization_config": FP8} if quantised else {}))


def prompts() -> list[list[int]]:
    """Return prompts below, above and well above index_topk."""
    return [random.Random(seed).choices(range(3, 2000), k=length) for seed, length in enumerate(LENGTHS)]


def emulate_capability_8_0() -> None:
    """Let vLLM see 8.0; torch and Triton's driver keep seeing the GPU, or nothing would load."""
    from vllm.platforms import cuda
    from vllm.platforms.interface import DeviceCapability

    cuda.NvmlCudaPlatform.get_device_capability = classmethod(lambda cls, device_id=0: DeviceCapability(8, 0))
    cuda.NvmlCudaPlatform.has_device_capability = classmethod(
        lambda cls, capability, device_id=0: (
            (capability if isinstance(capability, tuple) else divmod(capability, 10)) <= (8, 0)
        )
    )
    for platform in (cuda.NvmlCudaPlatform, cuda.CudaPlatformBase):
        platform.is_arch_support_pdl = classmethod(lambda cls: False)


def use_telling_weights() -> None:
    """Let dummy weights be large enough that attention, and so the selection, shows in the output."""
    import torch
    from vllm.model_executor.model_loader import dummy_loader

    original = dummy_loader.initialize_dummy_weights

    def initialise(model: Any, *arguments: Any, **options: Any) -> None:
        original(model, *arguments, **options)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.is_floating_point() or parameter.element_size() < 2 or "scale" in name:
                continue
            if "norm" in name and name.endswith("weight"):
                parameter.data.fill_(1)
            elif parameter.dim() > 1:
                values = torch.randn(parameter.shape, generator=generator) * 1.2 / parameter.shape[-1] ** 0.5
                parameter.data.copy_(values)

    dummy_loader.initialize_dummy_weights = initialise


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Run one case in this process and return what came out."""
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "kernels")]
    import torch
    import triton

    compiled: list[str] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda *, fn, **_: compiled.append(str(getattr(fn, "name", fn)))
    import vllm
    from vllm import LLM, SamplingParams

    if options.case == "emulated":
        emulate_capability_8_0()
    from dsa_doctor.plugin import register

    register()
    use_telling_weights()
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(model_config(options.fp8)))
    arguments: dict[str, Any] = {"attention_config": {"sparse_mla_force_mqa": True}}
    if options.mtp:
        arguments["speculative_config"] = {"method": "mtp", "num_speculative_tokens": 1}
    if options.kv_cache_dtype:
        arguments["kv_cache_dtype"] = options.kv_cache_dtype
    start = time.monotonic()
    llm = LLM(
        model=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=4096,
        max_num_seqs=8,
        max_num_batched_tokens=1024,
        block_size=64,
        gpu_memory_utilization=0.3,
        enforce_eager=not options.graphs,
        **arguments,
    )
    started, warm = time.monotonic() - start, len(compiled)
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts()]
    scored = llm.generate(inputs, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False))
    sampling = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, logprobs=0, detokenize=False, ignore_eos=True)
    generated = llm.generate(inputs, sampling)
    layers = llm.llm_engine.vllm_config.compilation_config.static_forward_context.values()
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "gpu": torch.cuda.get_device_name(),
        "backend": sorted({layer.attn_backend.get_name() for layer in layers if hasattr(layer, "impl")}),
        "seconds_to_start": round(started, 1),
        "compiled_before_serving": warm,
        "compiled_while_serving": compiled[warm:],
        "prompt_logprobs": [
            [next(iter(one.values())).logprob for one in output.prompt_logprobs[1:]] for output in scored
        ],
        "tokens": [list(output.outputs[0].token_ids) for output in generated],
    }


def run_case(case: str, graphs: bool, mtp: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--case", case]
    command += ["--graphs"] * graphs + ["--mtp"] * mtp + ["--fp8"] * options.fp8
    command += ["--kv-cache-dtype", options.kv_cache_dtype] if options.kv_cache_dtype and case != "native" else []
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_PLUGINS": "",
        "DSA_DOCTOR_PLUGIN": {"native": "off", "forced": "force", "emulated": "auto"}[case],
        "TRITON_CACHE_DIR": tempfile.mkdtemp(),
        **({"TRITON_OVERRIDE_ARCH": "sm80"} if case == "emulated" else {}),
    }
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        command += ["--answer", answer.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=options.timeout)
        except subprocess.TimeoutExpired:
            return {"failed": f"no answer within {options.timeout} s"}
        if done.returncode:
            return {"failed": (done.stdout + done.stderr)[-3000:]}
        content: dict[str, Any] = json.loads(answer.read())
        return content


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Compare two cases token by token."""
    pairs = zip(one["prompt_logprobs"], other["prompt_logprobs"], strict=True)
    differences = [[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in pairs]
    flat = list(itertools.chain.from_iterable(differences))
    return {
        "mean": statistics.fmean(flat),
        "most": max(flat),
        "mean_by_prompt": [statistics.fmean(row) for row in differences],
        "same_greedy_tokens": [
            sum(a == b for a, b in zip(*pair, strict=True)) / MAX_TOKENS
            for pair in zip(one["tokens"], other["tokens"], strict=True)
        ],
        "agree": statistics.fmean(flat) < MEAN_LIMIT and max(flat) < MOST_LIMIT,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("proof.json"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--fp8", action="store_true", help="FP8 block-quantised weights")
    parser.add_argument("--kv-cache-dtype", help="for the plugin's cases, e.g. fp8_ds_mla")
    parser.add_argument("--eager-only", action="store_true")
    parser.add_argument("--no-mtp", action="store_true")
    parser.add_argument("--timeout", type=int, default=300, help="seconds per case")
    for name in ("--case", "--answer"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--graphs", "--mtp"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        Path(options.answer).write_text(json.dumps(child(options)))
        return 0
    results: dict[str, dict[str, Any]] = {}
    graph_modes = (False,) if options.eager_only else (False, True)
    modes = itertools.product(graph_modes, (False,) if options.no_mtp else (False, True))
    for graphs, mtp in modes:
        for case in options.cases:
            name = f"{case}, {'graphs' if graphs else 'eager'}, MTP {'on' if mtp else 'off'}"
            found = results[name] = run_case(case, graphs, mtp, options)
            shown = {key: found.get(key) for key in ("backend", "seconds_to_start", "compiled_while_serving", "failed")}
            print(name, json.dumps({key: value for key, value in shown.items() if value is not None}), flush=True)
            options.out.write_text(json.dumps(results, indent=1))
    complete = {name: found for name, found in results.items() if "failed" not in found}
    comparisons = {f"{a}  vs  {b}": compare(complete[a], complete[b]) for a, b in itertools.combinations(complete, 2)}
    options.out.write_text(json.dumps({"cases": results, "comparisons": comparisons}, indent=1))
    for name, found in comparisons.items():
        print(f"{'agree ' if found['agree'] else 'DIFFER'} mean {found['mean']:.5f} most {found['most']:.4f}  {name}")
    serving = [name for name in complete if not name.startswith("native")]
    late = [name for name in serving if complete[name]["compiled_while_serving"]]
    for name in late:
        print(f"COMPILED WHILE SERVING {name}: {complete[name]['compiled_while_serving']}")
    wanted = [name for name in results if not name.startswith("native")]
    sound = len(serving) == len(wanted) and not late and all(found["agree"] for found in comparisons.values())
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
