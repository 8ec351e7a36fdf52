"""How the layers of each model family are made: their weights, their cache, and what vLLM refuses for them.

One file per family. `family_of` is the only place that chooses between them.
"""

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.families import deepseek_v4, deepseek_v32, deepseek_v41, glm5_next
from dsa_doctor.planner.families.base import Family

_FAMILIES: dict[str, Family] = {
    "mla": deepseek_v32.FAMILY,
    "glm5_next": glm5_next.FAMILY,
    "deepseek_v4": deepseek_v4.FAMILY,
    "deepseek_v41": deepseek_v41.FAMILY,
}


def family_of(model: ModelGeometry) -> Family:
    """Return the layer description of a model's family."""
    return _FAMILIES[model.family]


__all__ = ["Family", "family_of"]
