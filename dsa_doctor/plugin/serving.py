"""Judges a server's whole configuration before any worker starts: refusals, the KV cache dtype, the start-up report."""

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

from dsa_doctor.compat.settings import BREAKABLE_GRAPHS
from dsa_doctor.plugin import invariance, ops, report
from dsa_doctor.plugin.families import Family, family_of
from dsa_doctor.plugin.host import BACKEND_NAME, index_topk, model_geometry, vllm_root
from dsa_doctor.plugin.log import say
from dsa_doctor.plugin.mode import MODE_VARIABLE
from dsa_doctor.plugin.state import STATE

_QUANTISED_PREFIXES = ("fp8", "int8", "nvfp4")


def reviewed(original: Any) -> Any:
    """Wrap the platform's check_and_update_config: what cannot be served is refused, the rest is reported once."""
    function = original.__func__

    @functools.wraps(function)
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        review(vllm_config)
        function(cls, vllm_config)

    return classmethod(check_and_update_config)


def review(vllm_config: Any) -> None:
    """Refuse a DSA configuration that the plugin cannot serve, and report one that it will.

    Models without DSA are none of the plugin's business, nor are servers that ask for another backend by name, where
    the model's class leaves that open.

    Raises:
        ValueError: the configuration cannot be served; the message names each reason and what to change.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    model_config = vllm_config.model_config
    if model_config is None or not index_topk(model_config.hf_text_config):
        return
    asked = vllm_config.attention_config.backend
    other = asked is not None and asked is not AttentionBackendEnum.CUSTOM
    family = _family(model_config)
    if other and (family is None or not family.owns_attention):
        return
    reasons = refusals(vllm_config)
    if other:
        reasons = [f"--attention-backend {asked.name}: accepted: {BACKEND_NAME}, or nothing", *reasons]
    if reasons:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise ValueError(
            f"dsa-doctor's {BACKEND_NAME} cannot serve this configuration:{listed}\n"
            f"Change what is named above, or set {MODE_VARIABLE}=off to leave everything to vLLM."
        )
    if invariance.batch_invariant() and not (family is not None and family.owns_attention):
        invariance.prefill_every_prompt_alike(vllm_config)
    from vllm.platforms import current_platform

    if current_platform.is_cuda():
        report.refuse_or_log(vllm_config)


def refusals(vllm_config: Any) -> list[str]:
    """Return why this configuration cannot be served by the plugin, one reason per entry; empty where it can.

    Each names the option, what came and what is accepted.
    """
    from dsa_doctor.catalog.bounds import ConfigError
    from dsa_doctor.compat.families.glm5_next import open_pools_keep_drafts
    from dsa_doctor.compat.sources import SourceTree
    from dsa_doctor.resolver.start_refusals import start_refusals

    attention = vllm_config.attention_config
    found = []
    if _uses_fp4_indexer_cache(attention):
        found.append("an fp4 indexer cache was asked for; accepted: fp8, which is the default")
    if getattr(attention, "hisparse_config", None) is not None:
        found.append("HiSparse was asked for; accepted: a KV cache that is wholly on the GPU")
    try:
        geometry = model_geometry(vllm_config.model_config)
    except ConfigError as error:
        return [*found, f"the model's shape could not be read: {error}"]
    found += map(
        str,
        start_refusals(
            geometry,
            report.request_of(vllm_config),
            graphs=os.environ.get(BREAKABLE_GRAPHS),
            keeps_drafts=open_pools_keep_drafts(SourceTree(vllm_root())) if geometry.index_kpool > 1 else None,
        ),
    )
    if refused := _model_refusal(vllm_config, geometry):
        return [*found, refused]
    family = _family(vllm_config.model_config)
    if invariance.batch_invariant():
        own_attention = family is not None and family.owns_attention
        references = ops.uses_references("cuda")
        found += invariance.refusals(vllm_config, references=references, own_attention=own_attention)
    return [*found, *(family.refusals(vllm_config) if family is not None else ())]


def _family(model_config: Any) -> Family | None:
    """Return the family that serves the model, told by the first architecture that some family has."""
    names = getattr(getattr(model_config, "hf_config", None), "architectures", None) or ()
    return next((family for family in map(family_of, names) if family is not None), None)


def owns_attention(model_config: Any) -> bool:
    """Whether the model's family picks its attention class by itself, without vLLM's selector."""
    family = _family(model_config)
    return family is not None and family.owns_attention


def _uses_fp4_indexer_cache(attention: Any) -> bool:
    resolve = getattr(attention, "resolve_indexer_kv_dtype", None)
    asked = resolve("fp8") if resolve is not None else getattr(attention, "indexer_kv_dtype", None)
    return bool(getattr(attention, "use_fp4_indexer_cache", False)) or "fp4" in str(asked or "")


def _model_refusal(vllm_config: Any, geometry: Any) -> str | None:
    """Ask the resolver's gate about the model; the environment's part was decided when the plugin was installed."""
    from dsa_doctor.resolver.plugin_gate import GateDecision, model_gate

    decision = model_gate(
        GateDecision(outcome="serves", reason="installed", moved=STATE.moved),
        model=geometry,
        kv_cache_dtype=str(vllm_config.cache_config.cache_dtype),
    )
    return None if decision.serves else "; ".join((decision.reason, *decision.evidence))


def with_served_kv_cache_dtype(resolve: Callable[[str, Any], str]) -> Callable[[str, Any], str]:
    """Wrap vLLM's resolution of --kv-cache-dtype auto.

    Where a DSA checkpoint's metadata alone would choose a quantised cache, bfloat16 is taken, with a warning: no
    backend has the other on compute capability 8.x. A dtype that the user named is passed
    through, to work or to be refused.
    """

    @functools.wraps(resolve)
    def resolve_kv_cache_dtype_string(kv_cache_dtype: str, model_config: Any) -> str:
        resolved = resolve(kv_cache_dtype, model_config)
        forced = kv_cache_dtype == "auto" and str(resolved).startswith(_QUANTISED_PREFIXES)
        if not forced or not index_topk(getattr(model_config, "hf_text_config", None)):
            return resolved
        plain_alone = owns_attention(model_config)
        say(
            "The checkpoint's metadata asks for a %s KV cache, which no backend has for this model on this GPU: "
            "bfloat16 is used instead.%s",
            resolved,
            "" if plain_alone else " --kv-cache-dtype fp8_ds_mla halves the cache.",
            level=logging.WARNING,
        )
        return "bfloat16"

    return resolve_kv_cache_dtype_string
