"""Replaces what a family's indexer and model call in vLLM. Once per process and family, all or nothing."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dsa_doctor.compat.patches import PRESENT, SHARED_PATCHES, Patch, signature_state
from dsa_doctor.plugin.families.family import Family
from dsa_doctor.plugin.state import STATE


class PatchTargetError(RuntimeError):
    """A patch target is not what the ledger says; nothing has been replaced."""


def is_applied() -> bool:
    """Whether some family's indexer runs on the plugin's ops in this process."""
    return bool(STATE.applied)


def apply(family: Family) -> None:
    """Replace every target of a family in this process; does nothing the second time.

    Raises:
        PatchTargetError: a target moved or another plugin replaced it; nothing has been replaced then.
    """
    if family.name in STATE.applied:
        return
    loaded = {name: _module(name) for name in family.modules}
    for patch in (*SHARED_PATCHES, *family.patches):
        if patch.use == "replaced" and patch.kind == "function" and patch.module in loaded:
            _verify(loaded, patch)
    for holder, name, replacement in family.replacements():
        setattr(holder, name, replacement)
    STATE.applied.add(family.name)


def _module(name: str) -> Any:
    """Import a module; None where this vLLM has none of that name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return None
        raise


def _verify(loaded: Mapping[str, Any], patch: Patch) -> None:
    target: Any = None
    for place in (patch.target, *patch.elsewhere):
        module, _, name = place.partition(":")
        target = loaded.get(module)
        for part in name.split("."):
            target = getattr(target, part, None)
        if target is not None:
            break
    if not callable(target):
        raise PatchTargetError(f"{patch.target} is missing, so dsa-doctor's plugin replaced nothing")
    state = signature_state(_parameters(target), patch)
    if state != PRESENT:
        raise PatchTargetError(f"{patch.target} is {state}; dsa-doctor's plugin replaced nothing")


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    marks: dict[object, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.KEYWORD_ONLY: "*,",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return tuple(marks.get(one.kind, "") + one.name for one in inspect.signature(function).parameters.values())
