"""Findings on the environment that serves: its settings, and GPUs of several kinds."""

from dsa_doctor.compat.settings import (
    BATCH_INVARIANT,
    BREAKABLE_GRAPHS,
    PLUGIN_MODE,
    VLLM_BATCH_INVARIANT,
    batch_invariant,
    vllm_is_batch_invariant,
)
from dsa_doctor.resolver.judgement import Judgement, finding
from dsa_doctor.resolver.request import PLUGIN_MODES
from dsa_doctor.resolver.settings import invalid_invariance
from dsa_doctor.verdict.schema import Finding, Layer

_ORDER = "CUDA_DEVICE_ORDER"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_INSTEAD = {"VLLM_ATTENTION_BACKEND": "--attention-backend NAME"}
"""What took the place of a variable that newer releases no longer read."""


def settings_findings(case: Judgement, layers: tuple[Layer, ...]) -> list[Finding]:
    """Return what the settings of the judged environment change, or that they are not known where that matters."""
    observed = case.facts.settings
    if observed.value is None:
        if not any(layer.state == "plugin" for layer in layers):
            return []
        summary = (
            "The plugin is taken to be loaded and acting. Whether VLLM_PLUGINS or DSA_DOCTOR_PLUGIN prevents that is "
            f"unknown: {observed.cause}."
        )
        here = "dsa-doctor check MODEL   # in the shell, unit or container that starts vLLM"
        return [finding("DSA916", "warn", summary, remedy=(here,))]
    variables = observed.value.variables
    by_plugin = any(layer.state == "plugin" for layer in layers)
    found = [*_invalid_mode(case, variables), *_batch_invariance(case, variables, by_plugin)]
    if observed.value.unread:
        names = ", ".join(observed.value.unread)
        summary = f"{names}: set, and not read by this vLLM, so it changes nothing."
        remedy = tuple(_INSTEAD[name] for name in observed.value.unread if name in _INSTEAD)
        evidence = tuple(f"{name}={variables.get(name, '')}" for name in observed.value.unread)
        found.append(finding("DSA916", "warn", summary, evidence=evidence, remedy=remedy))
    graphs = variables.get(BREAKABLE_GRAPHS, "1")
    unknown = case.request.enforce_eager is None  # else the gate has refused it, or it does not matter
    if graphs != "1" and unknown and case.model.index_kpool > 1 and by_plugin:
        summary = f"{BREAKABLE_GRAPHS}={graphs}: the plugin refuses {case.model.name} at start, unless graphs are off."
        remedy = (f"unset {BREAKABLE_GRAPHS}", "--enforce-eager   # no graphs at all")
        found.append(finding("DSA916", "warn", summary, remedy=remedy))
    read = {name: value for name, value in variables.items() if name not in observed.value.unread}
    if read:
        summary = f"The answer is for the environment's own settings: {', '.join(read)}."
        evidence = tuple(f"{name}={value}" for name, value in read.items())
        if case.request.plugin_mode is not None and PLUGIN_MODE in read:
            evidence += (f"--plugin {case.request.plugin_mode} was given, and stands for {PLUGIN_MODE}",)
        found.append(finding("DSA916", "pass", summary, evidence=evidence))
    return found


def mixed_gpus(case: Judgement) -> list[Finding]:
    """Return a warning where the ranks would run on GPUs of several compute capabilities."""
    inventory = case.facts.gpus.value
    if inventory is None or case.target.is_elsewhere:
        return []
    visible = [gpu for gpu in inventory.gpus if gpu.visible]
    capabilities = sorted({gpu.capability for gpu in visible})
    evidence = tuple(f"GPU {gpu.index}: {gpu.name}, {gpu.capability}" for gpu in visible)
    remedy: tuple[str, ...] = ("export CUDA_VISIBLE_DEVICES=...   # GPUs of one kind",)
    if len(capabilities) > 1:
        kinds = ", ".join(capabilities)
        summary = f"The visible GPUs have compute capabilities {kinds}; the verdict is for the weakest case."
        return [finding("DSA907", "warn", summary, evidence=evidence, remedy=remedy)]
    if not _counted_otherwise(case) or len({gpu.name for gpu in inventory.gpus}) < 2:
        return []
    summary = (
        f"{_VISIBLE} names GPUs by number on a machine with several kinds, and {_ORDER} is not PCI_BUS_ID: CUDA counts "
        "the fastest first, so it may take others than those judged here."
    )
    everything = tuple(f"GPU {gpu.index} in PCI order: {gpu.name}, {gpu.capability}" for gpu in inventory.gpus)
    return [finding("DSA907", "warn", summary, evidence=everything, remedy=(f"export {_ORDER}=PCI_BUS_ID",))]


def _invalid_mode(case: Judgement, variables: dict[str, str]) -> list[Finding]:
    """Return a failure where the plugin, loaded in every process, raises over its own variable."""
    text = variables.get(PLUGIN_MODE, "").strip().lower()
    if not text or text in PLUGIN_MODES or not _loads(case) or case.request.plugin_mode is not None:
        return []
    summary = f"{PLUGIN_MODE}={text!r} is not accepted, and vLLM stops at start over it, whatever serves the model."
    return [finding("DSA916", "fail", summary, remedy=(f"export {PLUGIN_MODE}=auto   # or off, or force",))]


def _batch_invariance(case: Judgement, variables: dict[str, str], by_plugin: bool) -> list[Finding]:
    """Return whether a token's result may depend on its batch, where that is asked for and the plugin serves.

    A value that is not accepted stops vLLM over the plugin, whatever serves the model.
    """
    wrong = invalid_invariance(variables)
    if wrong:
        stops = _loads(case) and case.settings.mode != "off"
        remedy = (f"export {BATCH_INVARIANT}=1   # or 0",)
        return [finding("DSA916", "fail", f"{wrong}, whatever serves the model.", remedy=remedy)] if stops else []
    if not by_plugin:
        return []
    asked, vllm = batch_invariant(variables), vllm_is_batch_invariant(variables)
    if vllm and not asked:
        summary = (
            f"{VLLM_BATCH_INVARIANT} asks for batch-invariant backends, and {BATCH_INVARIANT}=0 keeps the plugin's "
            "from being one: vLLM then takes none for this model."
        )
        return [finding("DSA916", "fail", summary, remedy=(f"unset {BATCH_INVARIANT}   # it then follows vLLM",))]
    if not asked:
        return []
    summary = "Batch invariance is on: a token's sparse attention and selection are the same bits whatever its batch."
    if vllm:
        return [finding("DSA916", "pass", summary)]
    evidence = ("projections, experts and collectives are vLLM's, and may still depend on the batch",)
    remedy = (f"export {VLLM_BATCH_INVARIANT}=1   # the whole model, as far as vLLM has kernels for it",)
    return [finding("DSA916", "pass", summary, evidence=evidence, remedy=remedy)]


def _loads(case: Judgement) -> bool:
    """Whether vLLM loads the plugin, and so its reading of its own variables."""
    kept_out = case.settings.kept_out
    return case.settings.registered and (kept_out is None or kept_out.outcome == "refuses")


def _counted_otherwise(case: Judgement) -> bool:
    """Whether numbers in CUDA_VISIBLE_DEVICES mean something else to CUDA than to NVML, as far as is known."""
    variables = case.facts.settings.value.variables if case.facts.settings.value is not None else {}
    numbered = any(entry.strip().isdigit() for entry in variables.get(_VISIBLE, "").split(","))
    return numbered and variables.get(_ORDER, "") != "PCI_BUS_ID"
