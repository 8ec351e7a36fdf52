"""What the settings of the judged environment mean for the answer. The judge's own are never asked."""

from collections.abc import Mapping
from dataclasses import dataclass

from dsa_doctor.compat.settings import ALLOWED_PLUGINS, BATCH_INVARIANT, PLUGIN_MODE, allows, batch_invariant
from dsa_doctor.facts.schema import EntryPoint, Facts
from dsa_doctor.resolver.plugin_gate import GateDecision
from dsa_doctor.resolver.request import PLUGIN_MODES, PluginMode

_MLA_SWITCH = "VLLM_MLA_DISABLE"


@dataclass(frozen=True)
class PluginSettings:
    """How the judged environment stands to the plugin.

    Attributes:
        mode: DSA_DOCTOR_PLUGIN in force.
        registered: whether an entry point of the plugin is installed.
        kept_out: why vLLM would not load it, or would stop over it; None where it loads.
    """

    mode: PluginMode
    registered: bool
    kept_out: GateDecision | None


def plugin_settings(facts: Facts, asked: PluginMode | None = None) -> PluginSettings:
    """Return how the judged environment stands to the plugin; what is not known is taken as vLLM's default.

    Args:
        facts: their settings decide.
        asked: the mode given on the command line, which wins.
    """
    entry = _entry_point(facts)
    variables = facts.settings.value.variables if facts.settings.value is not None else {}
    text = variables.get(PLUGIN_MODE, "").strip().lower() or "auto"
    known: list[PluginMode] = [one for one in PLUGIN_MODES if one == text]
    mode = asked or (known[0] if known else "auto")
    kept_out = None
    if entry is not None:
        kept_out = _not_allowed(facts, entry, variables.get(ALLOWED_PLUGINS))
        if kept_out is None and asked is None and text not in PLUGIN_MODES:
            kept_out = GateDecision(
                outcome="refuses",
                reason=f"{PLUGIN_MODE}={text!r} is not accepted ({', '.join(PLUGIN_MODES)} are), which stops vLLM",
                remedy=(f"export {PLUGIN_MODE}=auto",),
            )
        elif kept_out is None and mode != "off" and (wrong := invalid_invariance(variables)):
            kept_out = GateDecision(outcome="refuses", reason=wrong, remedy=(f"unset {BATCH_INVARIANT}",))
    return PluginSettings(mode=mode, registered=entry is not None, kept_out=kept_out)


def invalid_invariance(variables: Mapping[str, str]) -> str:
    """Return why the plugin stops vLLM over DSA_DOCTOR_BATCH_INVARIANT, or nothing."""
    try:
        batch_invariant(variables)
    except ValueError:
        return f"{BATCH_INVARIANT}={variables[BATCH_INVARIANT]!r} is not accepted (0 and 1 are), which stops vLLM"
    return ""


def mla_is_off(facts: Facts) -> bool:
    """Whether the judged environment switches MLA off, and with it what sparse MLA stands on."""
    variables = facts.settings.value.variables if facts.settings.value is not None else {}
    return variables.get(_MLA_SWITCH, "0").strip() not in {"", "0"}


def _entry_point(facts: Facts) -> EntryPoint | None:
    installed = facts.software.value.vllm_plugins if facts.software.value is not None else ()
    return next((one for one in installed if one.value.startswith("dsa_doctor.")), None)


def _not_allowed(facts: Facts, entry: EntryPoint, setting: str | None) -> GateDecision | None:
    if setting is None:
        return None
    fingerprint = facts.fingerprint.value
    if fingerprint is None or not fingerprint.plugins_by_name:
        return GateDecision(
            outcome="refuses",
            reason=f"{ALLOWED_PLUGINS}={setting} is set, and how this vLLM reads it was not recognised",
            remedy=(f"unset {ALLOWED_PLUGINS}",),
        )
    if allows(setting, entry.name):
        return None
    what = f"{ALLOWED_PLUGINS}={setting} lets vLLM load" if setting else f"{ALLOWED_PLUGINS} is empty: vLLM loads"
    spelt = " (blanks count)" if entry.name in {one.strip() for one in setting.split(",")} else ""
    together = ",".join(dict.fromkeys([*(one.strip() for one in setting.split(",") if one.strip()), entry.name]))
    return GateDecision(
        outcome="stands_down",
        reason=f"{what} no plugin named {entry.name}{spelt}, so it is installed and not loaded",
        remedy=(f"export {ALLOWED_PLUGINS}={together}   # or unset it: vLLM then loads every plugin",),
    )
