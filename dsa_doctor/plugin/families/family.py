"""What the plugin must know of a family of models; each family is one file beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dsa_doctor.compat.patches import Patch

Replacement = tuple[Any, str, Any]
"""Who holds a name, the name, and what stands there from now on."""


@dataclass(frozen=True)
class Family:
    """A family of models that one set of patches serves.

    Attributes:
        name: of the family, as facts and findings call it.
        model_classes: architecture to "module:class" that serves it. vLLM imports the module when, and only when, it
            needs the class; importing it applies the family's patches.
        patches: what the family needs in vLLM besides `SHARED_PATCHES`.
        modules: modules whose replaced functions are verified again as objects, before any is replaced.
        replacements: imports what it replaces, and returns what is to be set where; it must not change anything.
        head_sizes: widths of a cache row, latent plus rope.
    """

    name: str
    model_classes: Mapping[str, str]
    patches: tuple[Patch, ...]
    modules: tuple[str, ...]
    replacements: Callable[[], list[Replacement]]
    head_sizes: tuple[int, ...]
