"""Compute capability 12.x: the plugin waits for a server that asks for it, and acts in that server alone.

Asked for is it by its backend's name, or by a KV cache that no backend of vLLM's takes. Until then the name can be
given, and nothing else differs. Processes that the server starts are told by DSA_DOCTOR_PLUGIN=force.
"""

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.plugin.host import (
    BACKEND_NAME,
    custom_backend_of_another_plugin,
    index_topk,
    name_backend,
    replace_function,
    takes_cache,
)
from dsa_doctor.plugin.log import say
from dsa_doctor.plugin.mode import MODE_VARIABLE
from dsa_doctor.plugin.state import STATE


def wait(capability: Capability) -> None:
    """Let the backend's name be known in this process, and look at the configuration of the server that it starts."""
    from vllm.platforms import cuda

    if custom_backend_of_another_plugin() is not None:
        return
    name_backend()
    replace_function("vllm.utils.torch_utils", "resolve_kv_cache_dtype_string", _noted)
    original = cuda.CudaPlatformBase.check_and_update_config
    function = original.__func__

    @functools.wraps(function)
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        start_if_asked(vllm_config, capability)
        function(cls, vllm_config)

    cuda.CudaPlatformBase.check_and_update_config = classmethod(check_and_update_config)


def start_if_asked(vllm_config: Any, capability: Capability) -> None:
    """Install the plugin where the server's options ask for it, and judge the server as everywhere.

    Raises:
        ValueError: it was asked for by name, and cannot serve.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    model_config = vllm_config.model_config
    if STATE.forced or model_config is None or not index_topk(model_config.hf_text_config):
        return
    from dsa_doctor.plugin import gate, selection, serving
    from dsa_doctor.resolver.plugin_gate import asks_for_plugin

    backend = vllm_config.attention_config.backend
    dtype = STATE.asked_cache or str(vllm_config.cache_config.cache_dtype)
    asked = asks_for_plugin(
        capability,
        backend=BACKEND_NAME if backend is AttentionBackendEnum.CUSTOM else getattr(backend, "name", None),
        kv_cache_dtype=dtype,
        natively=serving.owns_attention(model_config) or takes_cache(capability, dtype),
    )
    if asked is None:
        return
    decision = gate.decide(capability, "auto", asked)
    if not decision.serves:
        details = "".join(f"\n  {line}" for line in (*decision.evidence, *decision.remedy))
        if backend is not None:
            raise ValueError(f"{asked}, and dsa-doctor's plugin cannot serve: {decision.reason}.{details}")
        say("dsa-doctor's plugin changes nothing: %s.%s", decision.reason, details, level=logging.WARNING)
        return
    selection.install(forced=True, moved=decision.moved)
    os.environ[MODE_VARIABLE] = "force"
    say("dsa-doctor's plugin acts on compute capability %s: %s.", capability, asked)
    serving.review(vllm_config)


def _noted(resolve: Callable[[str, Any], str]) -> Callable[[str, Any], str]:
    """Wrap vLLM's resolution of --kv-cache-dtype: DeepSeek-V3.2's configuration makes bfloat16 auto again."""

    @functools.wraps(resolve)
    def resolve_kv_cache_dtype_string(kv_cache_dtype: str, model_config: Any) -> str:
        if index_topk(getattr(model_config, "hf_text_config", None)):
            STATE.asked_cache = kv_cache_dtype
        return resolve(kv_cache_dtype, model_config)

    return resolve_kv_cache_dtype_string
