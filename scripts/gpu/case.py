"""One case of prove.py, in a process of its own: a tiny model in one vLLM configuration, and what came out.

python scripts/gpu/case.py SETTINGS.json ANSWER.json
"""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

import tiny  # noqa: E402

LENGTHS = {"glm-dsa": (60, 700, 1900), "deepseek-v4": (60, 700, 2900, 5000), "glm-5.3": (60, 700, 2900, 5000)}
"""Prompts below, above and well above the tokens that index_topk stands for."""
MAX_TOKENS = 24


def prompts(model: str) -> list[list[int]]:
    """Return the fixed prompts."""
    return [random.Random(seed).choices(range(10, 2000), k=length) for seed, length in enumerate(LENGTHS[model])]


def emulate_capability_8_0() -> None:
    """Let vLLM see 8.0; torch and Triton's driver keep seeing the GPU, or nothing would load.

    The archive's extensions carry Hopper's code alone, so what they carry for 8.0 cannot be judged here.
    """
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
    from dsa_doctor.facts.observation import Observation
    from dsa_doctor.facts.schema import Csrc
    from dsa_doctor.plugin import report

    report.compiled_side = lambda environment: Observation[Csrc].unknown("an emulated capability")


def select_the_smallest() -> None:
    """Let the plugin select what it should not: the comparison must notice."""
    from dsa_doctor.plugin import ops

    rightly = ops.topk_indices

    def wrongly(logits: Any, *arguments: Any, **keywords: Any) -> None:
        rightly(-logits, *arguments, **keywords)

    ops.topk_indices = wrongly


def round_rows() -> None:
    """Let the plugin attend to rows as DeepSeek-V4's native cache holds them.

    That is 448 values of e4m3 with a power of two for every 64, and 64 of bf16. Rounding what is rounded changes
    nothing, so that whole caches are rounded before each attention.
    """
    import torch

    from dsa_doctor.plugin import ops

    attend = ops.window_and_selected_mla

    def rounded(rows: torch.Tensor) -> None:
        values = rows[..., :448].unflatten(-1, (7, 64)).float()
        power = (values.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448).log2().ceil().exp2()
        rows[..., :448] = ((values / power).to(torch.float8_e4m3fn).float() * power).flatten(-2).to(rows.dtype)

    def attend_to_rounded(q: Any, window: Any, selected: Any, *given: Any) -> None:
        for source in (window, selected):
            if source is not None:
                rounded(source[0])
        attend(q, window, selected, *given)

    ops.window_and_selected_mla = attend_to_rounded


def kernels_of_a_step(llm: Any, sampling: Any, model: str) -> dict[str, Any]:
    """Return the kernels of one decoding step of 8 requests at the third prompt's length; see `speed_case.one_step`."""
    import speed_case

    length = LENGTHS[model][2]
    given = [{"prompt_token_ids": random.Random(100 + seed).choices(range(10, 2000), k=length)} for seed in range(8)]

    def seconds(tokens: int) -> float:
        start = time.perf_counter()
        llm.generate(given, sampling(tokens), use_tqdm=False)
        return time.perf_counter() - start

    for tokens in (1, 1, 1 + speed_case.PROFILED_STEPS):
        seconds(tokens)
    return speed_case.one_step(seconds)


def register_models(settings: dict[str, Any]) -> None:
    """Give vLLM its own model classes, imported: else it inspects each in a process that imports vLLM once more.

    Not where the plugin serves: its classes are registered already, and these would take their place.
    """
    if settings["tensor_parallel_size"] > 1:
        return  # workers are forked, and import them by themselves
    if settings["model"] != "glm-dsa":
        from vllm.model_executor.models import registry

        registry._run_in_subprocess = lambda inspect: inspect()
        return
    if settings["case"] in ("forced", "emulated", "misled", "rounded"):
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.deepseek_v2 import GlmMoeDsaForCausalLM

    ModelRegistry.register_model("GlmMoeDsaForCausalLM", GlmMoeDsaForCausalLM)
    if settings["mtp"]:
        from vllm.model_executor.models.deepseek_mtp import DeepSeekMTP

        ModelRegistry.register_model("DeepSeekMTPModel", DeepSeekMTP)


def settings_of_engine(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of vLLM's LLM for this case."""
    arguments: dict[str, Any] = {
        "model": str(tiny.model_folder(Path(tempfile.mkdtemp()), settings["model"], quantised=settings["fp8_weights"])),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "max_model_len": 4096 if settings["model"] == "glm-dsa" else 8192,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 1024,
        # Cases run side by side on one GPU: memory that others take must not count as this one's.
        "gpu_memory_utilization": 0.03 if settings["model"] == "glm-dsa" else 0.06,
        "kv_cache_memory_bytes": (512 << 20) if settings["model"] == "glm-dsa" else (2 << 30),
        "enforce_eager": not settings["graphs"],
        "tensor_parallel_size": settings["tensor_parallel_size"],
        "attention_config": {"sparse_mla_force_mqa": True},
    }
    if settings["model"] == "glm-dsa":
        arguments["block_size"] = 64
        if settings["case"] == "native":
            arguments["attention_config"]["backend"] = "FLASHMLA_SPARSE"
    if settings["mtp"]:
        arguments["speculative_config"] = {"method": "mtp", "num_speculative_tokens": 1}
    if settings["kv_cache_dtype"] != "auto":
        arguments["kv_cache_dtype"] = settings["kv_cache_dtype"]
    return arguments


def backends(layers: Any) -> list[str]:
    """Return the names of the attention backends; of DeepSeek-V4, whose layers have none, those of their classes."""
    named = {layer.attn_backend.get_name() for layer in layers if hasattr(layer, "impl")}
    classes = {type(layer).__name__ for layer in layers}
    return sorted(named or {name for name in classes if name.endswith("Attention")})


def deep_gemm_kernels() -> list[str]:
    """Return the kernels that DeepGEMM has compiled into its cache, shared by all cases."""
    folder = Path(os.environ["DG_JIT_CACHE_DIR"])
    return sorted(path.name for path in folder.glob("cache/kernel.*"))


def serve(settings: dict[str, Any]) -> dict[str, Any]:
    """Start the engine, score the prompts, generate from them, and say what was compiled when."""
    sys.path[:0] = [str(tiny.REPOSITORY), str(tiny.REPOSITORY / "kernels")]
    compiled = tiny.count_compilations()
    import torch
    import triton
    import vllm
    from vllm import LLM, SamplingParams

    if settings["case"] == "emulated":
        # Its import has DSA_KERNELS_EMULATE act before vLLM compiles a kernel.
        import dsa_kernels  # noqa: F401

        emulate_capability_8_0()
    from dsa_doctor.plugin import register

    register()
    if settings["case"] == "misled":
        select_the_smallest()
    if settings["case"] == "rounded":
        round_rows()
    register_models(settings)
    tiny.use_telling_weights()
    start = time.monotonic()
    llm = LLM(**settings_of_engine(settings))
    started, warm, warm_deep_gemm = time.monotonic() - start, compiled(), deep_gemm_kernels()
    print(f"case: engine ready after {started:.1f} s, {len(warm)} Triton kernels compiled", flush=True)
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts(settings["model"])]
    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    scored = llm.generate(inputs, scoring, use_tqdm=False)
    late_while_scoring = compiled()[len(warm) :]
    sampling = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, logprobs=0, detokenize=False, ignore_eos=True)
    generated = llm.generate(inputs, sampling, use_tqdm=False)
    again = llm.generate(inputs, sampling, use_tqdm=False)
    step = None
    if settings["profile"]:
        step = kernels_of_a_step(
            llm,
            lambda tokens: SamplingParams(temperature=0, max_tokens=tokens, detokenize=False, ignore_eos=True),
            settings["model"],
        )
    layers = llm.llm_engine.vllm_config.compilation_config.static_forward_context.values()
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "gpu": torch.cuda.get_device_name(),
        "backend": backends(layers),
        "seconds_to_start": round(started, 1),
        "compiled_before_serving": len(warm),
        "compiled_while_scoring": late_while_scoring,
        "compiled_while_serving": compiled()[len(warm) + len(late_while_scoring) :],
        "deep_gemm_compiled_while_serving": sorted(set(deep_gemm_kernels()) - set(warm_deep_gemm)),
        "step": step,
        "prompt_logprobs": [
            [next(iter(one.values())).logprob for one in output.prompt_logprobs[1:]] for output in scored
        ],
        "logprobs": [
            [one[token].logprob for one, token in zip(made.logprobs, made.token_ids, strict=True)]
            for made in (output.outputs[0] for output in generated)
        ],
        "tokens": [list(output.outputs[0].token_ids) for output in generated],
        "repeats_itself": [
            list(one.outputs[0].token_ids) == list(other.outputs[0].token_ids)
            for one, other in zip(generated, again, strict=True)
        ],
    }


if __name__ == "__main__":
    answer = serve(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # the engine's teardown is not what is measured, and may hang beside other processes
