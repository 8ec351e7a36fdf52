"""The verdict on the server that is about to start, by the resolver of `dsa-doctor check`, and the block it logs."""

import logging
from typing import Any, cast

from dsa_doctor import __version__
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Csrc, Facts, Selector
from dsa_doctor.plugin import invariance
from dsa_doctor.plugin.host import BACKEND_NAME, device_capability, model_geometry
from dsa_doctor.plugin.log import say
from dsa_doctor.plugin.mode import plugin_mode
from dsa_doctor.plugin.state import STATE
from dsa_doctor.probes.environment import Environment
from dsa_doctor.resolver.request import PluginMode, Request, Target
from dsa_doctor.resolver.resolve import resolve
from dsa_doctor.verdict.schema import Layer, Verdict

_NOT_ASKED = "not asked while a server starts; `dsa-doctor check` does"


def verdict_of(vllm_config: Any) -> Verdict:
    """Judge the server's model on its GPU.

    Gathered are the facts that need neither CUDA nor another import of vLLM; what must be imported to be known
    (DeepGEMM, the compiled modules) is imported in a process of its own.
    """
    from dsa_doctor.probes import cuda_toolkit, deep_gemm, fingerprint, gpus, settings, software

    environment = Environment.current()
    facts = Facts(
        dsa_doctor_version=__version__,
        gpus=gpus.probe(),
        software=software.probe(environment),
        cuda_toolkit=cuda_toolkit.probe(environment),
        deep_gemm=deep_gemm.probe(environment),
        csrc=compiled_side(environment),
        selector=Observation[Selector].unknown(_NOT_ASKED),
        fingerprint=fingerprint.probe(environment),
        vllm_import=Observation[str].unknown(_NOT_ASKED),
        settings=settings.probe(environment),
    )
    from vllm.platforms import current_platform

    capability = device_capability("force")
    assert capability is not None  # the caller is on CUDA
    target = Target(name=current_platform.get_device_name(), capability=str(capability), source="this machine")
    return resolve(
        facts, model=model_geometry(vllm_config.model_config), target=target, request=request_of(vllm_config)
    )


def request_of(vllm_config: Any) -> Request:
    """Return the options of a server as the resolver is asked about them."""
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    return Request(
        tensor_parallel_size=getattr(parallel, "tensor_parallel_size", 1),
        pipeline_parallel_size=getattr(parallel, "pipeline_parallel_size", 1),
        decode_context_parallel_size=getattr(parallel, "decode_context_parallel_size", 1),
        prefill_context_parallel_size=getattr(parallel, "prefill_context_parallel_size", 1),
        kv_cache_dtype=str(vllm_config.cache_config.cache_dtype),
        dtype="float16" if str(getattr(model, "dtype", "")).removeprefix("torch.") == "float16" else "bfloat16",
        drafts=int(getattr(vllm_config, "num_speculative_tokens", 0) or 0),
        enforce_eager=bool(getattr(model, "enforce_eager", False)),
        backend=BACKEND_NAME,
        plugin_mode=cast(PluginMode, plugin_mode()),
    )


def compiled_side(environment: Environment) -> Observation[Csrc]:
    """Read vLLM's compiled extensions, as `check` does."""
    from dsa_doctor.probes import csrc

    return csrc.probe(environment)


def refuse_or_log(vllm_config: Any) -> None:
    """Log the block once per server, or refuse to start where vLLM's compiled side lacks what the GPU needs.

    Raises:
        ValueError: layer 1 is unresolved; the message holds its findings.
    """
    if STATE.judged:
        return
    try:
        verdict = verdict_of(vllm_config)
    except Exception as error:  # a report that fails must not keep a server from starting
        STATE.judged.append(str(vllm_config.model_config.model))
        say("dsa-doctor: this server could not be judged (%s: %s).", type(error).__name__, error, level=logging.WARNING)
        return
    compiled = next(layer for layer in verdict.layers if layer.layer == "csrc")
    if compiled.state == "unresolved":
        raise ValueError(_refusal(verdict, compiled))
    STATE.judged.append(str(vllm_config.model_config.model))
    say("%s", block(verdict, str(vllm_config.cache_config.cache_dtype)))
    if compiled.state == "unknown":
        say("dsa-doctor: layer 1 could not be determined: %s", compiled.reason, level=logging.WARNING)


def block(verdict: Verdict, kv_cache_dtype: str) -> str:
    """Return the start-up block: each layer with its state, the backend and the fallbacks chosen."""
    lines = [f"dsa-doctor {verdict.dsa_doctor_version}: {verdict.model.name if verdict.model else 'this model'} on "]
    lines[0] += f"{verdict.target.name} ({verdict.target.sm})" if verdict.target else "this GPU"
    lines += [f"  layer {layer.number} {layer.layer}: {layer.state}. {layer.reason}" for layer in verdict.layers]
    lines.append(f"  backend: {BACKEND_NAME}, KV cache {kv_cache_dtype}")
    if invariance.batch_invariant():
        lines.append(f"  {invariance.described()}")
    configuration = verdict.configuration
    lines += [f"  {part}: {what}" for part, what in (configuration.fallbacks if configuration else {}).items()]
    warned = [one for one in verdict.findings if one.status in ("warn", "fail")]
    lines += [f"  {one.id}: {one.summary}" for one in warned]
    return "\n".join(lines)


def _refusal(verdict: Verdict, compiled: Layer) -> str:
    lines = [f"dsa-doctor: vLLM's compiled extensions cannot serve this GPU. {compiled.reason}"]
    for found in verdict.findings:
        if found.id in compiled.finding_ids and found.status == "fail":
            lines.append(f"  {found.id}: {found.summary}")
            lines += [f"    {line}" for line in (*found.evidence, *found.remedy)]
    return "\n".join(lines)
