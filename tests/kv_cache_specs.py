"""Asks the installed vLLM for the KV cache of a model, with a capability in force and without a GPU.

vLLM's real configuration, model construction and KV cache planning run, in a process of its own (see
`tests.emulated_vllm`); parameters are on the meta device, nothing is computed.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.emulated_vllm import ask


def kv_cache_of(
    folder: Path,
    capability: str,
    config: dict[str, Any],
    options: dict[str, Any],
    *,
    memory_gib: int = 40,
    plugins: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return what a release of vLLM would allocate for a model on one rank; `folder` as of `tests.releases`.

    Args:
        config: its config.json.
        options: of vLLM's EngineArgs; a draft is constructed where they ask for one.
        plugins: names of vLLM's general plugins to load.

    Returns:
        "layers": name to {"kind", "block", "page", "most"} (tokens of a block, bytes of its page, most bytes that one
        request may hold); "blocks" and "concurrency": of a pool of `memory_gib`, at --max-model-len.
    """
    request = {"config": config, "options": options, "memory": memory_gib * 2**30}
    return dict(ask(__name__, folder, capability, request, VLLM_PLUGINS=",".join(plugins)))


def answer(request: dict[str, Any], emulated: Any) -> dict[str, Any]:
    """Plan in the process that is asked."""
    emulated.assume_deep_gemm()
    import torch

    from dsa_doctor.facts.observation import Observation
    from dsa_doctor.facts.schema import Csrc
    from dsa_doctor.plugin import report

    report.compiled_side = lambda environment: Observation[Csrc].unknown("placeholders stand for compiled modules")
    from vllm.engine.arg_utils import EngineArgs

    with tempfile.TemporaryDirectory() as folder, emulated.tensors_on("cpu"):
        Path(folder, "config.json").write_text(json.dumps(request["config"]), encoding="utf-8")
        config = EngineArgs(
            model=folder, load_format="dummy", skip_tokenizer_init=True, **request["options"]
        ).create_engine_config()
        from vllm.config import set_current_vllm_config
        from vllm.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
        from vllm.model_executor.model_loader.utils import initialize_model

        with set_current_vllm_config(config):
            init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, "gloo")
            initialize_model_parallel(1, 1)
        torch.set_default_dtype(torch.bfloat16)
        with set_current_vllm_config(config), torch.device("meta"):
            model = [initialize_model(vllm_config=config)]
            if config.speculative_config is not None:
                drafting = config.speculative_config.draft_model_config
                model.append(initialize_model(vllm_config=config, prefix="draft", model_config=drafting))
        torch.set_default_dtype(torch.float32)
        from vllm.platforms import current_platform

        with set_current_vllm_config(config):
            current_platform.update_block_size_for_backend(config)
            specs = _specs(config)
            pool = _pool(config, specs, request["memory"])
    del model
    layers = {
        name: {
            "kind": type(one).__name__,
            "block": one.block_size,
            "page": one.page_size_bytes,
            "most": one.max_memory_usage_bytes(config),
        }
        for name, one in specs.items()
    }
    return {"layers": layers, "block": config.cache_config.block_size, **pool}


def _specs(config: Any) -> dict[str, Any]:
    """Ask vLLM's own function; the module that it lies in imports kernels of Mamba, which need a GPU to be defined."""
    import types

    kernels = types.ModuleType("vllm.model_executor.layers.mamba.mamba_mixer2")
    kernels.__getattr__ = lambda _: None  # type: ignore[method-assign]
    sys.modules[kernels.__name__] = kernels
    from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

    return dict(get_kv_cache_spec(config))


def _pool(config: Any, specs: dict[str, Any], memory: int) -> dict[str, Any]:
    from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
    from vllm.v1.core import kv_cache_planning, kv_cache_utils

    layers = config.compilation_config.static_forward_context.values()
    backends = dict.fromkeys(one.get_attn_backend() for one in layers if hasattr(one, "get_attn_backend"))
    names = [one.name for one in get_supported_kv_cache_layouts(backends)]
    resolve_kv_cache_layout(config, [names], specs.values())
    made = kv_cache_planning.get_kv_cache_configs(
        config, [specs], [memory], kv_cache_planning.get_global_kv_cache_groups(config, [specs])
    )[0]
    concurrency = kv_cache_utils.get_max_concurrency_for_kv_cache_config(config, made)
    groups = [[len(one.layer_names), one.kv_cache_spec.page_size_bytes] for one in made.kv_cache_groups]
    return {
        "blocks": made.num_blocks,
        "concurrency": concurrency,
        "groups": groups,
        "in_flight": config.max_in_flight_tokens,
    }
