"""The plugin's call of the resolver's gate: the same function that `dsa-doctor check` asks."""

from typing import cast

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Fingerprint
from dsa_doctor.plugin.families import family_targets, patch_targets
from dsa_doctor.plugin.host import BACKEND_NAME, custom_backend_of_another_plugin, is_installed, vllm_root
from dsa_doctor.resolver.plugin_gate import GateDecision, environment_gate
from dsa_doctor.resolver.request import PluginMode


def decide(capability: Capability, mode: str, asked: str | None = None) -> GateDecision:
    """Return whether the plugin serves in this environment, and why or why not; imports no part of vLLM anew.

    Args:
        capability: of the GPU.
        mode: auto or force.
        asked: what of the server's options asks for it, see `asks_for_plugin`.
    """
    if not is_installed("dsa_kernels"):
        return GateDecision(
            outcome="refuses",
            reason="the package dsa_kernels, which dsa-doctor's wheel brings, is missing",
            remedy=("pip install --force-reinstall --no-deps dsa-doctor",),
        )
    taken = custom_backend_of_another_plugin()
    if taken is not None:
        return GateDecision(
            outcome="refuses",
            reason=f"another plugin has registered {taken} as vLLM's one custom attention backend",
            remedy=("limit VLLM_PLUGINS to one of the two plugins",),
        )
    # What the gate reads of a fingerprint; gathering the rest is `check`'s business.
    known = Fingerprint.model_construct(
        in_tree_triton_mla_sparse=in_tree_backend(),
        patch_targets=patch_targets(vllm_root()),
        patch_families=family_targets(),
    )
    return environment_gate(
        capability=capability,
        mode=cast(PluginMode, mode),
        registered=True,
        triton=is_installed("triton"),
        fingerprint=Observation[Fingerprint].model_construct(status="ok", value=known),
        asked=asked,
    )


def in_tree_backend() -> bool:
    """Whether this vLLM has a TRITON_MLA_SPARSE of its own."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    member = AttentionBackendEnum.__members__.get(BACKEND_NAME)
    return member is not None and member.name == BACKEND_NAME
