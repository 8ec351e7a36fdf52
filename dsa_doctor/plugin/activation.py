"""Gathers the gate's facts without touching CUDA, asks the resolver, and applies or stands down."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, cast

from dsa_doctor.catalog.capability import Capability, plugin_serves
from dsa_doctor.plugin.entry import say

BACKEND_NAME = "TRITON_MLA_SPARSE"


def activate(mode: str) -> None:
    """Apply the plugin in this process if the resolver's gate says so; otherwise change nothing.

    Args:
        mode: auto or force.

    Raises:
        RuntimeError: mode is force and the plugin cannot serve; the message holds the gate's reason and evidence.
    """
    capability = device_capability(mode)
    if capability is None or (mode == "auto" and plugin_serves(capability) != "default"):
        return
    from dsa_doctor.plugin import gate

    decision = gate.decide(capability, mode)
    if decision.serves:
        from dsa_doctor.plugin import selection

        selection.install(forced=mode == "force")
        return
    details = "".join(f"\n  {line}" for line in (*decision.evidence, *decision.remedy))
    if mode == "force":
        raise RuntimeError(
            f"DSA_DOCTOR_PLUGIN=force, but dsa-doctor's plugin cannot serve: {decision.reason}.{details}"
        )
    level = logging.INFO if decision.outcome == "stands_down" else logging.WARNING
    say("dsa-doctor's plugin changes nothing: %s.%s", decision.reason, details, level=level)


def device_capability(mode: str) -> Capability | None:
    """Return the compute capability of the first GPU from NVML, or None where there is none to serve.

    vLLM's platform without NVML (Jetson) would initialise CUDA to answer, which breaks forked workers: there the
    plugin acts only when forced.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    answers = next(base for base in type(current_platform).__mro__ if "get_device_capability" in vars(base))
    if answers.__name__ == "NonNvmlCudaPlatform" and mode != "force":
        return None
    found = current_platform.get_device_capability()
    return Capability(found.major, found.minor) if found is not None else None


def vllm_root() -> Path:
    """Return the folder that holds the installed vLLM's package folder."""
    import vllm

    return Path(cast(str, vllm.__file__)).parent.parent


def is_installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def index_topk(config: Any) -> int:
    """Return index_topk of a Hugging Face configuration, or 0 where the model has no DeepSeek Sparse Attention."""
    return int(getattr(config, "index_topk", 0) or 0)
