"""What the plugin must know of a family of models; each family is one file beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dsa_doctor.compat.patches import Patch

Replacement = tuple[Any, str, Any]
"""Who holds a name, the name, and what stands there from now on."""


def _nothing(vllm_config: Any) -> list[str]:
    del vllm_config
    return []


@dataclass(frozen=True)
class Family:
    """A family of models that one set of patches serves.

    Attributes:
        name: of the family, as facts and findings call it.
        model_classes: architecture to "module:class" that serves it. vLLM imports the module when, and only when, it
            needs the class; importing it applies the family's patches.
        patches: what the family needs in vLLM besides `SHARED_PATCHES`.
        modules: modules whose replaced functions are verified again as objects, before any is replaced; not every vLLM
            has all of them.
        replacements: imports what it replaces, and returns what is to be set where; it must not change anything.
        head_sizes: widths of a cache row, latent plus rope.
        owns_attention: whether its attention class is replaced with its patches, so that no other backend serves
            beside them.
        refusals: returns what of a server's configuration the family cannot be served with, one reason per entry.
    """

    name: str
    model_classes: Mapping[str, str]
    patches: tuple[Patch, ...]
    modules: tuple[str, ...]
    replacements: Callable[[], list[Replacement]]
    head_sizes: tuple[int, ...]
    owns_attention: bool = False
    refusals: Callable[[Any], list[str]] = _nothing
