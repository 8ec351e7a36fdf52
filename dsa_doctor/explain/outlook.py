"""What comes after a finding: the next failure on the same GPU, and whether the plugin resolves it."""

import re
from pathlib import PurePosixPath

from dsa_doctor.catalog.capability import Capability, plugin_serves, triton_has_e4m3
from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.catalog.models import find_model
from dsa_doctor.explain.causes import CAUSES
from dsa_doctor.explain.deep_gemm import MIXING
from dsa_doctor.explain.schema import NextFailure, Outlook
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts, Fingerprint
from dsa_doctor.resolver.plugin_gate import GateDecision, environment_gate, model_gate
from dsa_doctor.resolver.request import PluginMode
from dsa_doctor.resolver.settings import plugin_settings

_ORDER = {"csrc": 0, "attention": 1, "indexer": 2, "runtime": 3}
_GUARD = {"DSA302", "DSA303"}
"""Raised by the indexer's constructor, which runs before the attention backend is selected."""

_EXPECTED = (
    ("DSA201", "vLLM's stock backends for sparse MLA do not take compute capability {capability}"),
    ("DSA301", "the indexer's logits call DeepGEMM, which does not support compute capability {capability}"),
    ("DSA901", "Triton kernels on the DSA path use fp8e4nv, which compute capability {capability} does not have"),
    ("DSA902", "the top-k op may select wrong tokens on compute capability {capability}, without an error"),
)
_DSA_KERNEL = re.compile(r"indexer|mqa_logits|fused_norm_rope|fused_q|pack_seq|unpack_seq|kpool|topk", re.IGNORECASE)


def next_failures(finding_id: str, capability: Capability | None, layers_found: set[str]) -> tuple[NextFailure, ...]:
    """Return what would fail after `finding_id` is fixed, in the order of the layers.

    Only compute capability 8.x is known well enough to say; a layer that the log shows failing is not repeated.
    """
    if capability is None or plugin_serves(capability) != "default":
        return ()
    layer = FINDINGS_BY_ID[finding_id].layer
    if layer == "runtime" and finding_id != "DSA901":
        return ()
    after = 0 if finding_id in _GUARD else _ORDER[layer]
    if finding_id == "DSA901":  # the profile run meets the indexer's own Triton kernel before DeepGEMM's logits
        after = _ORDER["attention"]
    found = []
    for expected, summary in _EXPECTED:
        its_layer = FINDINGS_BY_ID[expected].layer
        if _ORDER[its_layer] <= after or expected == finding_id or its_layer in layers_found - {"runtime"}:
            continue
        if expected == "DSA901" and triton_has_e4m3(capability):
            continue
        found.append(NextFailure(id=expected, layer=its_layer, summary=summary.format(capability=capability)))
    return tuple(found)


def plugin_gate(
    capability: Capability, *, facts: Facts | None, mode: PluginMode | None, model: str | None
) -> tuple[GateDecision, bool]:
    """Return the plugin's decision for the log's GPU and model, and whether the environment was known.

    Without facts the environment is not judged: `absent` then says only that the GPU is one that the plugin serves.
    """
    software = facts.software.value if facts is not None else None
    settings = plugin_settings(facts, mode) if facts is not None else None
    unread: Observation[Fingerprint] = Observation.unknown("no facts were given")
    gate = environment_gate(
        capability=capability,
        mode=settings.mode if settings is not None else mode or "auto",
        registered=settings is not None and settings.registered,
        triton=software is not None and "triton" in software.packages,
        fingerprint=facts.fingerprint if facts is not None else unread,
        kept_out=settings.kept_out if settings is not None else None,
    )
    known = find_model(model) or find_model(PurePosixPath(model).name) if model else None
    if known is not None:
        checked = gate if gate.serves else GateDecision(outcome="serves", reason="")
        decision = model_gate(checked, model=known.geometry(), kv_cache_dtype="auto")
        if gate.serves or (gate.outcome == "absent" and decision.outcome == "refuses"):
            gate = decision
    return gate, facts is not None


def plugin_outlook(finding_id: str, details: dict[str, str], gate: GateDecision, *, judged: bool) -> Outlook:
    """Return whether the plugin resolves a finding, given its decision."""
    helps = CAUSES[finding_id].by_plugin
    if finding_id == "DSA901" and details.get("kernel"):
        helps = bool(_DSA_KERNEL.search(details["kernel"]))
    if finding_id == "DSA927" and details.get("part") == MIXING:
        helps = True
    if helps is False:
        return Outlook(resolves=False, reason="this is not a part that dsa-doctor's plugin serves")
    if gate.outcome == "absent" and not judged:
        if helps is None:
            return Outlook(resolves=None, reason="it depends on the kernel, which the log does not name")
        reason = "the GPU is one that the plugin serves; whether it can in that environment needs --facts"
        return Outlook(resolves=True, reason=reason)
    if not gate.serves:
        return Outlook(resolves=False, reason=f"the plugin does not act: {gate.reason}")
    if helps is None:
        return Outlook(resolves=None, reason="it depends on the kernel, which the log does not name")
    return Outlook(resolves=True, reason=f"the plugin serves this part: {gate.reason}")
