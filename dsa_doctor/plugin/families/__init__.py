"""The families of models that the plugin serves. A new one is a file here, and its name in `FAMILIES`."""

from pathlib import Path

from dsa_doctor.compat.patches import SHARED_PATCHES, Patch, shared_states, states_of
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.plugin.families import deepseek_v4, deepseek_v32, deepseek_v41, glm5_next
from dsa_doctor.plugin.families.family import Family

FAMILIES: tuple[Family, ...] = (deepseek_v32.FAMILY, deepseek_v4.FAMILY, deepseek_v41.FAMILY, glm5_next.FAMILY)


def all_patches() -> tuple[Patch, ...]:
    """Return every entry of the ledger once: what all families need, then each family's."""
    every = (*SHARED_PATCHES, *(patch for family in FAMILIES for patch in family.patches))
    return tuple({patch.target: patch for patch in every}.values())


def family_of(architecture: str) -> Family | None:
    """Return the family whose classes serve an architecture; None where the plugin serves none of that name."""
    return next((family for family in FAMILIES if architecture in family.model_classes), None)


def family_targets() -> dict[str, tuple[str, ...]]:
    """Return each family's targets, besides those that every family needs."""
    return {family.name: tuple(patch.target for patch in family.patches) for family in FAMILIES}


def patch_targets(root: Path) -> dict[str, str]:
    """Verify every target on the sources below `root`, without importing anything.

    Args:
        root: the folder that holds the `vllm` folder, e.g. site-packages or an unpacked wheel.

    Returns:
        Target to "present", "missing", or "changed: ..." with what came and what is accepted.
    """
    tree = SourceTree(root)
    states = shared_states(tree)
    for family in FAMILIES:
        states |= states_of(tree, family.patches)
    return states


__all__ = ["FAMILIES", "Family", "all_patches", "family_of", "family_targets", "patch_targets"]
