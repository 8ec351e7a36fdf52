"""What the plugin asks of the vLLM that it runs in."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from dsa_doctor.catalog.capability import Capability, plugin_serves, vllm_minimum
from dsa_doctor.plugin.state import STATE
from dsa_doctor.resolver.request import TRITON_BACKEND

BACKEND_NAME = TRITON_BACKEND
CUSTOM_PATH = "dsa_doctor.plugin.backend.TritonMLASparseBackend"


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


def acts_on(capability: Capability) -> bool:
    """Whether the plugin acts on a compute capability: 8.x, or anything from 8.0 up where it was forced."""
    return plugin_serves(capability) == "default" or (STATE.forced and capability >= vllm_minimum())


def name_backend() -> None:
    """Make the backend selectable by its name.

    The name is an alias of the member CUSTOM, not a member: configurations then pickle as CUSTOM, which a spawned
    process knows before it loads plugins.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    register_backend(AttentionBackendEnum.CUSTOM, CUSTOM_PATH)
    AttentionBackendEnum._member_map_[BACKEND_NAME] = AttentionBackendEnum.CUSTOM


def custom_backend_of_another_plugin() -> str | None:
    """Return the class path that another plugin gave to the member CUSTOM, or None."""
    from vllm.v1.attention.backends import registry

    path = registry._ATTN_OVERRIDES.get(registry.AttentionBackendEnum.CUSTOM)
    return None if path in (None, CUSTOM_PATH) else str(path)


def replace_function(module: str, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap a function of vLLM where it is defined and in every loaded vLLM module that imported it by name."""
    __import__(module)
    original = getattr(sys.modules[module], name)
    wrapped = wrap(original)
    for loaded_name, loaded in list(sys.modules.items()):
        if loaded_name.startswith("vllm.") and vars(loaded).get(name) is original:
            setattr(loaded, name, wrapped)


def takes_cache(capability: Capability, kv_cache_dtype: str) -> bool:
    """Whether a sparse-MLA backend of vLLM's own takes such a KV cache on a compute capability."""
    from vllm.platforms import cuda
    from vllm.platforms.interface import DeviceCapability

    asked = DeviceCapability(*capability)

    def takes(member: Any) -> bool:
        try:
            backend = member.get_class()
        except Exception:  # what cannot be loaded here serves nothing here
            return False
        return bool(
            backend.is_sparse()
            and backend.supports_compute_capability(asked)
            and backend.supports_kv_cache_dtype(kv_cache_dtype)
        )

    return any(takes(member) for member in cuda._get_backend_priorities(True, asked))


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


def model_geometry(model_config: Any) -> Any:
    """Return the geometry of a vLLM model configuration.

    Raises:
        ConfigError: a key that every causal language model has is missing or is not a number.
    """
    from dsa_doctor.catalog.geometry import geometry_from_config

    config = model_config.hf_config.to_dict()
    return geometry_from_config(config, name=str(model_config.served_model_name or model_config.model), source="vLLM")
