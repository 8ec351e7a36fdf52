"""Whether dsa-doctor's plugin serves: the one function that the report, the plugin and the launcher ask."""

from typing import Literal

from pydantic import Field

from dsa_doctor.catalog.capability import (
    Capability,
    has_native_path,
    plugin_serves,
    shared_memory_per_block,
    vllm_minimum,
)
from dsa_doctor.catalog.geometry import Family, ModelGeometry
from dsa_doctor.facts.observation import Fact, Observation
from dsa_doctor.facts.schema import Fingerprint
from dsa_doctor.installation import this_installation
from dsa_doctor.resolver.request import TRITON_BACKEND, PluginMode
from dsa_doctor.resolver.start_refusals import Refusal

PLUGIN_KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8_ds_mla")
"""KV cache dtypes of TRITON_MLA_SPARSE; a dtype forced by checkpoint metadata alone is replaced by bfloat16."""

ROPE_FREE_KV_CACHE_DTYPES = ("auto", "bfloat16")
"""The same for rows without rope, for which there is no fp8 layout."""

_MOST_POOLED = 16
"""Tokens; the most that one index key of the kernels stands for."""

V4_KV_CACHE_DTYPES = ("auto", "bfloat16")
"""The same for DeepSeek-V4 and V4.1, whose rows are bf16 on this path."""

_V4_FAMILIES: tuple[Family, ...] = ("deepseek_v4", "deepseek_v41")

_OTHER_RELEASE = ("use a vLLM release of the support matrix (docs/support-matrix.md), or a newer dsa-doctor",)

_PLUGIN_FAMILIES: dict[Family, str] = {
    "mla": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "glm5_next": "glm5_next",
}
"""How the plugin calls the families that it serves."""


class GateDecision(Fact):
    """Whether the plugin serves, and why or why not.

    `serves`: it acts. `stands_down`: it is not needed or was switched off. `refuses`: it would be needed and cannot
    serve. `absent`: it is not installed in the judged environment.
    """

    outcome: Literal["serves", "stands_down", "refuses", "absent"]
    reason: str
    evidence: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    outranks: bool = False
    """Whether it serves in place of what vLLM has of its own: forced, or asked for."""
    moved: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Model family that it cannot serve in this vLLM, though others, to the patch targets that moved."""

    verified: tuple[str, ...] | None = None
    """Model families whose own patch targets were looked up; None where it was not asked."""

    @property
    def serves(self) -> bool:
        """Whether the plugin acts."""
        return self.outcome == "serves"


def environment_gate(
    *,
    capability: Capability,
    mode: PluginMode,
    registered: bool,
    triton: bool,
    fingerprint: Observation[Fingerprint],
    kept_out: GateDecision | None = None,
    asked: str | None = None,
) -> GateDecision:
    """Decide from the GPU and the environment, before any model is known; this is what `register()` asks.

    Args:
        capability: of the judged GPU.
        mode: DSA_DOCTOR_PLUGIN; auto acts on 8.x, and on 12.x where it was asked for; force on every capability from
            8.0 up.
        registered: whether vLLM would load the plugin's entry point.
        triton: whether Triton is installed.
        fingerprint: what vLLM's sources do; its patch targets must all be present.
        kept_out: why vLLM would not load an entry point that is registered.
        asked: what asks for the plugin, see `asks_for_plugin`.
    """
    if mode == "off":
        return GateDecision(
            outcome="stands_down",
            reason="DSA_DOCTOR_PLUGIN=off switches it off",
            remedy=("unset DSA_DOCTOR_PLUGIN",),
        )
    if capability < vllm_minimum():
        reason = f"its kernels need compute capability {vllm_minimum()} and this GPU has {capability}"
        return GateDecision(outcome="refuses", reason=reason)
    if mode == "auto" and asked is None and plugin_serves(capability) != "default":
        if plugin_serves(capability) == "on request":
            reason = f"on compute capability {capability} it acts only when asked"
            remedy = (f"--attention-backend {TRITON_BACKEND}", "export DSA_DOCTOR_PLUGIN=force   # the same, for all")
            return GateDecision(outcome="stands_down", reason=reason, remedy=remedy)
        if not has_native_path(capability):
            known = shared_memory_per_block(capability) is not None
            how = "compile for" if known else "were neither compiled nor checked for"
            reason = f"its kernels {how} compute capability {capability}{', and none has run there' if known else ''}"
            unverified = (
                "export DSA_DOCTOR_PLUGIN=force   # at your own risk: `dsa-doctor verify` on that GPU comes first"
            )
            return GateDecision(outcome="stands_down", reason=reason, remedy=(unverified,))
        return GateDecision(outcome="stands_down", reason=f"native paths win on compute capability {capability}")
    if not registered:
        return GateDecision(
            outcome="absent",
            reason="no entry point of dsa-doctor is registered with vLLM in this environment",
            remedy=(this_installation().install,),
        )
    if kept_out is not None:
        return kept_out
    if not triton:
        return GateDecision(
            outcome="refuses",
            reason="Triton is not installed, and its kernels need it",
            remedy=("pip install triton",),
        )
    if fingerprint.value is None:
        reason = f"vLLM's sources could not be read, so its patch targets are unverified: {fingerprint.cause}"
        return GateDecision(outcome="refuses", reason=reason, evidence=fingerprint.evidence)
    if fingerprint.value.in_tree_triton_mla_sparse:
        return GateDecision(outcome="stands_down", reason="this vLLM has a TRITON_MLA_SPARSE of its own")
    decision = _patch_gate(fingerprint.value.patch_targets, fingerprint.value.patch_families)
    return decision.model_copy(update={"outranks": decision.serves and (mode == "force" or asked is not None)})


def asks_for_plugin(capability: Capability, *, backend: str | None, kv_cache_dtype: str, natively: bool) -> str | None:
    """Return what of a server's options asks for the plugin on a GPU where it acts only then (12.x); None for nothing.

    Args:
        capability: of the GPU.
        backend: attention backend asked for by name.
        kv_cache_dtype: as the user gave it.
        natively: whether vLLM has a backend of its own for such a cache there, as far as is known.
    """
    if plugin_serves(capability) != "on request":
        return None
    if backend == TRITON_BACKEND:
        return f"{TRITON_BACKEND} was asked for by name"
    if backend is None and kv_cache_dtype in ("bfloat16", "float16") and not natively:
        return f"no backend of vLLM's takes a KV cache of dtype {kv_cache_dtype} on compute capability {capability}"
    return None


def _patch_gate(targets: dict[str, str], families: dict[str, tuple[str, ...]]) -> GateDecision:
    """Decide from the targets: what every family needs must be present, and all that some family needs besides."""
    if not targets:
        return GateDecision(outcome="refuses", reason="its patch targets in this vLLM were not verified")
    moved = {target: f"{target}: {state}" for target, state in targets.items() if state != "present"}
    by_family = {
        family: tuple(moved[target] for target in needed if target in moved) for family, needed in families.items()
    }
    shared = moved.keys() - {target for needed in families.values() for target in needed}
    if shared or (moved and all(by_family.values())):
        return GateDecision(
            outcome="refuses",
            reason=f"{len(moved)} of its {len(targets)} patch targets moved in this vLLM, so it changes nothing",
            evidence=tuple(moved.values()),
            remedy=_OTHER_RELEASE,
        )
    lacking = {family: states for family, states in by_family.items() if states}
    if not lacking:
        reason = f"all {len(targets)} patch targets are as expected"
        return GateDecision(outcome="serves", reason=reason, verified=tuple(families))
    served = ", ".join(family for family in by_family if family not in lacking)
    reason = f"all patch targets for {served} are as expected; not those for {', '.join(lacking)}"
    return GateDecision(outcome="serves", reason=reason, moved=lacking, verified=tuple(families))


def model_gate(
    environment: GateDecision, *, model: ModelGeometry, kv_cache_dtype: str, refused: tuple[Refusal, ...] = ()
) -> GateDecision:
    """Decide for one model, given the decision for the environment; this is what `check` and the backend ask.

    Args:
        environment: decision of `environment_gate`; anything but `serves` is returned as it is.
        model: the model's geometry.
        kv_cache_dtype: what the user asked for; "auto" where nothing was.
        refused: what of the other options is in the way, see `start_refusals`.
    """
    if not environment.serves:
        return environment
    named = _PLUGIN_FAMILIES.get(model.family, "")
    if moved := environment.moved.get(named):
        reason = f"{len(moved)} of its patch targets for {model.name} moved in this vLLM"
        return GateDecision(outcome="refuses", reason=reason, evidence=moved, remedy=_OTHER_RELEASE)
    if model.family != "mla" and environment.verified is not None and named not in environment.verified:
        reason = f"its patch targets for {model.name} in this vLLM were not verified"
        return GateDecision(outcome="refuses", reason=reason)
    misfit = _v4_misfit(model) if model.family in _V4_FAMILIES else _mla_misfit(model)
    if misfit is not None:
        return GateDecision(outcome="refuses", reason=misfit)
    accepted = _kv_cache_dtypes(model)
    if kv_cache_dtype not in accepted:
        halved = ("--kv-cache-dtype fp8_ds_mla   # half the memory",) if "fp8_ds_mla" in accepted else ()
        return GateDecision(
            outcome="refuses",
            reason=f"TRITON_MLA_SPARSE has no KV cache of dtype {kv_cache_dtype} for {model.name}",
            evidence=(f"accepted: {', '.join(accepted)}",),
            remedy=("--kv-cache-dtype bfloat16", *halved),
        )
    if refused:
        return GateDecision(
            outcome="refuses",
            reason="; ".join(f"{one.asked}: {one.why}" for one in refused),
            evidence=tuple(f"{one.asked}: accepted: {one.accepted}" for one in refused),
            remedy=tuple(one.remedy for one in refused),
        )
    return environment


def _kv_cache_dtypes(model: ModelGeometry) -> tuple[str, ...]:
    if model.family in _V4_FAMILIES:
        return V4_KV_CACHE_DTYPES
    return PLUGIN_KV_CACHE_DTYPES if model.qk_rope_head_dim else ROPE_FREE_KV_CACHE_DTYPES


def _mla_misfit(model: ModelGeometry) -> str | None:
    """Return what of a model with MLA throughout the kernels are not built for."""
    if model.kv_lora_rank != 512 or model.qk_rope_head_dim not in (0, 64):
        return (
            f"its kernels are built for KV rows of 512+64 or 512+0 values; {model.name} has "
            f"{model.kv_lora_rank}+{model.qk_rope_head_dim}"
        )
    if model.index_topk % 128:
        return f"vLLM's index conversion takes selections of a multiple of 128; index_topk is {model.index_topk}"
    if model.index_kpool > 1 and (model.index_head_dim != 128 or model.index_kpool > _MOST_POOLED):
        return (
            f"its kernels pool 2 to {_MOST_POOLED} index keys of 128 values; {model.name} pools {model.index_kpool} of "
            f"{model.index_head_dim}"
        )
    return None


def _v4_misfit(model: ModelGeometry) -> str | None:
    """Return what of a DeepSeek-V4 or V4.1 the kernels are not built for, or was not checked."""
    if model.architecture.endswith("ForConditionalGeneration"):
        return "of DeepSeek-V4 the text model alone is served, and this is the one with a vision encoder"
    if (model.head_dim, model.index_head_dim) != (512, 128):
        return (
            f"its kernels are built for rows of 512 values and index keys of 128; {model.name} has {model.head_dim} "
            f"and {model.index_head_dim}"
        )
    return None
