"""What helps, for whom: a remedy is shown only where it fits the log's engine, platform and GPU."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dsa_doctor.catalog.capability import Capability, has_native_path, plugin_serves
from dsa_doctor.installation import this_installation

Engine = Literal["vllm", "sglang"]
Need = Literal["plugin", "cuda", "9.0 or 10.x"]


class Remedy(NamedTuple):
    """A command or a sentence, with where it helps.

    Attributes:
        text: {model} and {target} are filled, and {install} by what installs dsa-doctor as it was installed here.
        engine: the only engine that it fits; None fits every one.
        need: "plugin": a GPU that dsa-doctor's plugin serves; "cuda": an NVIDIA GPU; or capabilities.
    """

    text: str
    engine: Engine | None = None
    need: Need | None = None


@dataclass(frozen=True)
class Setting:
    """What is known of the environment that a remedy is for.

    Attributes:
        engine: as the log shows it; None where it does not.
        platform: "cuda", "rocm", "cpu" and so on; None where the log does not tell.
        capability: of the GPU.
        model: as the log names it.
        target: what `--target` accepts for the log's GPU.
        plugin_loaded: whether the log shows dsa-doctor's plugin at work.
    """

    engine: str | None = None
    platform: str | None = None
    capability: Capability | None = None
    model: str | None = None
    target: str | None = None
    plugin_loaded: bool = False


_HUB_ID = re.compile(r"[\w.\-]+(?:/[\w.\-]+)?")


def fitting(remedies: tuple[Remedy | str, ...], setting: Setting) -> tuple[str, ...]:
    """Return the texts of the remedies that fit, without repetitions."""
    texts: dict[str, None] = {}
    for one in remedies:
        remedy = Remedy(one) if isinstance(one, str) else one
        if _fits(remedy, setting):
            texts.setdefault(_filled(remedy.text, setting))
    return tuple(texts)


def _fits(remedy: Remedy, setting: Setting) -> bool:
    if remedy.engine is not None and setting.engine not in {None, remedy.engine}:
        return False
    if remedy.need is None:
        return True
    if setting.platform not in {None, "cuda"}:
        return False
    known = setting.capability
    if remedy.need == "plugin":
        return not setting.plugin_loaded and (known is None or plugin_serves(known) == "default")
    return remedy.need == "cuda" or known is None or has_native_path(known)


def _filled(text: str, setting: Setting) -> str:
    model = setting.model or ""
    named = model if _HUB_ID.fullmatch(model) or model.startswith(("/", "./", "~")) else "MODEL"
    target = f" --target {setting.target}" if setting.target else ""
    text = text.replace("{install}", this_installation().install)
    return text.replace("{model}", named).replace("{target}", target)
