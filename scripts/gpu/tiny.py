"""The tiny DSA model of the GPU scripts: its config.json, telling dummy weights, and a count of Triton compilations."""

import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
INDEX_TOPK = 512
VOCABULARY = 2048
EXPERTS = 4
SPREAD = 1.2
"""Standard deviation of a product with a weight matrix, over that of its input."""
FP8_SPREAD = 64.0
"""Standard deviation of fp8 weights, of which the block scales take care."""


MODELS = ("glm-dsa", "deepseek-v4", "glm-5.3")
"""The families that can be served: GlmMoeDsa, DeepSeek-V4 and GLM-5.3-Flash."""


def model_folder(folder: Path, model: str = "glm-dsa", *, quantised: bool = False) -> Path:
    """Write the config.json of a model of three or four layers with an MTP layer into `folder`, and return the folder.

    Every token goes to all experts: a choice of experts flips on a rounding error, and the native path, whose order of
    summation changes from run to run, would then not agree with itself.

    Args:
        folder: made if it is not there.
        model: one of `MODELS`.
        quantised: fp8 blocks; of DeepSeek-V4 experts in MXFP4 besides.
    """
    config = config_of(model, quantised=quantised)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def config_of(model: str, *, quantised: bool) -> dict[str, Any]:
    """Return the config.json of a tiny model."""
    sys.path[:0] = [str(REPOSITORY)]
    from tests.dsa_doctor.plugin.tiny_models import FP8, tiny_config, tiny_pooled_config, tiny_v4_config

    experts = {"n_routed_experts": EXPERTS, "num_experts_per_tok": EXPERTS}
    if model == "deepseek-v4":
        config = tiny_v4_config(vocab_size=VOCABULARY, index_topk=INDEX_TOPK, **experts)
        if not quantised:
            del config["quantization_config"], config["expert_dtype"]
        return config
    if model == "glm-5.3":
        text = tiny_pooled_config(vocab_size=VOCABULARY, **experts)["text_config"]
        return {**text, "architectures": ["Glm5NextForCausalLM"], "torch_dtype": "bfloat16"}
    said = {"indexer_rope_interleave": True, "index_topk": INDEX_TOPK, "vocab_size": VOCABULARY}
    return tiny_config(**experts, **said, **({"quantization_config": FP8} if quantised else {}))


def use_telling_weights() -> None:
    """Let dummy weights be large enough that attention, and so the selection, shows in the output.

    Each is seeded by its own name: alike in every process, whatever other parameters a variant has.
    """
    from vllm.model_executor.model_loader import dummy_loader

    original = dummy_loader.DummyModelLoader.load_weights

    def load_weights(loader: Any, model: Any, model_config: Any) -> None:
        # The loader visits module after module, so names are whole only here, once all are done.
        original(loader, model, model_config)
        for name, parameter in model.named_parameters():
            fill(name, parameter.data)
        # What a model makes of its weights when they are loaded; dummy ones are not loaded. DeepSeek-V4's has it.
        finish = getattr(model, "process_weights_after_loading", None)
        if finish is not None:
            finish()

    dummy_loader.DummyModelLoader.load_weights = load_weights


def fill(name: str, values: Any) -> None:
    """Fill one weight: ones for norms, normally distributed values for matrices, quantised or not.

    Quantised are e4m3 in blocks of 128, and e2m1 in groups of 32, two to a byte, each with scales of its own.
    """
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if name.endswith("tid2eid"):  # a token's experts: all of them, in an order of its own
        order = torch.rand(values.shape, generator=generator).argsort(-1)
        values.copy_(order.to(values.dtype))
    elif values.dtype is torch.uint8 and name.endswith("weight_scale"):
        # Codes of e2m1, evenly drawn, spread by 2.9.
        power = torch.tensor(SPREAD / 2.9 / (2 * 16 * values.shape[-1]) ** 0.5).log2().round()
        values.fill_(int(power) + 127)
    elif values.dtype is torch.uint8 and name.endswith("weight"):
        values.copy_(torch.randint(0, 256, values.shape, generator=generator).to(values.dtype))
    elif not values.is_floating_point():
        return
    elif "norm" in name and name.endswith("weight"):
        values.fill_(1)
    elif name.endswith(("attn_sink", "_base", "_ape", ".ape", "_bias")) and "e_score" not in name:
        values.copy_(torch.randn(values.shape, generator=generator))
    elif name.endswith("_scale") and values.dim() == 1:  # of hyper-connections
        values.fill_(1)
    elif values.dim() > 1 and name.endswith("scale_inv"):
        values.fill_(SPREAD / FP8_SPREAD / (128 * values.shape[-1]) ** 0.5)
    elif values.dim() > 1 and "scale" not in name:
        drawn = torch.randn(values.shape, generator=generator)
        quantised = values.element_size() == 1
        values.copy_((drawn * (FP8_SPREAD if quantised else SPREAD / values.shape[-1] ** 0.5)).to(values.dtype))


def count_compilations() -> Callable[[], list[str]]:
    """Start to note every Triton kernel that this process compiles.

    Returns:
        A function that returns "module:name" of each so far. vLLM sets a hook of its own once it has warmed up; calling
        the function puts this one in front of it.
    """
    import triton

    compiled: list[str] = []
    runtime = triton.knobs.runtime

    def noted(following: Any) -> Any:
        def hook(*arguments: Any, **keywords: Any) -> Any:
            kernel = keywords.get("fn")
            module = getattr(getattr(kernel, "module", None), "__name__", None) or getattr(kernel, "module", "?")
            compiled.append(f"{module}:{getattr(kernel, 'name', kernel)}")
            return following(*arguments, **keywords) if following is not None else None

        hook.notes = True  # type: ignore[attr-defined]
        return hook

    def so_far() -> list[str]:
        if not getattr(runtime.jit_post_compile_hook, "notes", False):
            runtime.jit_post_compile_hook = noted(runtime.jit_post_compile_hook)
        return list(compiled)

    so_far()
    return so_far
