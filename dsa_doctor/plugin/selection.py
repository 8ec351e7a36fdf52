"""Layer 2 of the plugin: the backend's name, its place in the automatic order, and the hooks that start the rest."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from dsa_doctor.plugin import serving
from dsa_doctor.plugin.families import FAMILIES
from dsa_doctor.plugin.host import (
    BACKEND_NAME,
    custom_backend_of_another_plugin,
    name_backend,
    replace_function,
)
from dsa_doctor.plugin.log import LOGGER, say
from dsa_doctor.plugin.state import STATE


def install(*, forced: bool, moved: Mapping[str, tuple[str, ...]]) -> None:
    """Install the plugin in this process. The gate has verified every target; nothing here can half succeed.

    Nothing of vLLM is imported that a process without a DSA model would not import, so other models start as fast as
    without the plugin.

    Args:
        forced: whether the backend outranks native ones.
        moved: families that cannot be served in this vLLM, to the patch targets that moved.
    """
    from vllm.platforms import cuda

    STATE.forced = forced
    STATE.moved = dict(moved)
    name_backend()
    cuda._get_backend_priorities = with_custom_backend(cuda._get_backend_priorities)
    cuda.CudaPlatformBase.check_and_update_config = serving.reviewed(cuda.CudaPlatformBase.check_and_update_config)
    replace_function("vllm.utils.torch_utils", "resolve_kv_cache_dtype_string", serving.with_served_kv_cache_dtype)
    offer_model_classes()
    say("dsa-doctor's plugin is active: %s is available to DSA models.", BACKEND_NAME, level=logging.DEBUG)


def offer_model_classes() -> None:
    """Let the architectures of DSA models resolve to the classes that the plugin serves."""
    from vllm.model_executor.models.registry import ModelRegistry

    for family in (one for one in FAMILIES if one.name not in STATE.moved):
        for architecture, path in family.model_classes.items():
            if architecture in ModelRegistry.models:
                ModelRegistry.register_model(architecture, path)


def with_custom_backend(priorities: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Wrap vLLM's function so that its list ends with the plugin's backend, or begins with it where forced.

    The original caches its lists, so they are copied.
    """

    @functools.wraps(priorities)
    def listed(*arguments: Any, **keywords: Any) -> list[Any]:
        from vllm.v1.attention.backends.registry import AttentionBackendEnum

        found = list(priorities(*arguments, **keywords))
        custom = AttentionBackendEnum.CUSTOM
        if custom in found:
            return found
        other = custom_backend_of_another_plugin()
        if other is not None:
            LOGGER.error("Another plugin replaced %s by %s; it is not offered to vLLM any more.", BACKEND_NAME, other)
            return found
        return [custom, *found] if STATE.forced else [*found, custom]

    return listed
