"""Constructs a tiny DSA model with the real code of a vLLM release, with a capability in force and without a GPU.

vLLM's real configuration, backend selection and model construction run, in a process of its own (see
`tests.emulated_vllm`); parameters are on the meta device, nothing is computed.
"""

import json
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.emulated_vllm import ask


def construct(
    folder: Path,
    capability: str,
    architecture: str = "GlmMoeDsaForCausalLM",
    *,
    fp8: bool = False,
    mtp: bool = False,
    plugins: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
    timeout: int = 300,
) -> dict[str, Any]:
    """Return {"model", "backends", "draft", "draft_backends", "assumed"} or {"error"}.

    Args:
        folder: a release, see `tests.releases`; its compiled modules are all taken as loadable.
        capability: e.g. "8.0".
        architecture: GlmMoeDsaForCausalLM or DeepseekV32ForCausalLM.
        fp8: whether the checkpoint is FP8 block-quantised.
        mtp: whether to construct the draft model of multi-token prediction too.
        plugins: names of vLLM's general plugins to load.
        options: further options of EngineArgs.
        timeout: seconds.
    """
    drafts = {"speculative_config": {"method": "mtp", "num_speculative_tokens": 1}} if mtp else {}
    request = {"model": tiny_config(architecture, fp8=fp8), "options": {**drafts, **(options or {})}}
    return dict(ask(__name__, folder, capability, request, timeout=timeout, VLLM_PLUGINS=",".join(plugins)))


def tiny_config(architecture: str, *, fp8: bool) -> dict[str, Any]:
    """Return a config.json with the real head dimensions and few, narrow layers."""
    glm = architecture == "GlmMoeDsaForCausalLM"
    nope, value = (192, 256) if glm else (128, 128)
    config = {
        "architectures": [architecture],
        "model_type": "glm_moe_dsa" if glm else "deepseek_v32",
        "torch_dtype": "bfloat16",
        "hidden_size": 1024,
        "intermediate_size": 1024,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": 512,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": 64,
        "qk_head_dim": nope + 64,
        "v_head_dim": value,
        "index_topk": 512,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 256,
        "moe_layer_freq": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "vocab_size": 2048,
        "max_position_embeddings": 8192,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "num_nextn_predict_layers": 1,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if fp8:
        config["quantization_config"] = {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        }
    return config


def answer(request: dict[str, Any], emulated: Any) -> dict[str, Any]:
    """Construct in the process that is asked."""
    emulated.assume_deep_gemm()
    try:
        return _construct(request, emulated)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _construct(request: dict[str, Any], emulated: Any) -> dict[str, Any]:
    import torch
    from vllm.engine.arg_utils import EngineArgs

    with tempfile.TemporaryDirectory() as folder, emulated.tensors_on("cpu"):
        Path(folder, "config.json").write_text(json.dumps(request["model"]), encoding="utf-8")
        config = EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            max_model_len=4096,
            max_num_seqs=8,
            **request["options"],
        ).create_engine_config()
        from vllm.config import set_current_vllm_config
        from vllm.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
        from vllm.model_executor.model_loader.utils import initialize_model

        with set_current_vllm_config(config):
            init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, "gloo")
            initialize_model_parallel(1, 1)
        answer: dict[str, Any] = {}
        speculative = config.speculative_config
        drafts = {} if speculative is None else {"draft": {"model_config": speculative.draft_model_config}}
        for role, options in {"model": {}, **drafts}.items():
            torch.set_default_dtype(torch.bfloat16)
            with set_current_vllm_config(config), torch.device("meta"):
                made = initialize_model(
                    vllm_config=config, **({"prefix": "draft"} if role == "draft" else {}), **options
                )
            torch.set_default_dtype(torch.float32)
            answer[role] = f"{type(made).__module__}:{type(made).__name__}"
            found = {one.attn_backend.get_name() for one in made.modules() if hasattr(one, "attn_backend")}
            answer["backends" if role == "model" else "draft_backends"] = sorted(found)
    answer["assumed"] = emulated.assumed
    answer["kv_cache_dtype"] = config.cache_config.cache_dtype
    return answer
