"""Model families with sparse attention, one file each: a new one is a file here and a line in `FAMILIES`."""

from dsa_doctor.compat.families import deepseek_v4, deepseek_v41, glm5_next, mla
from dsa_doctor.compat.families.base import Family, Need, Needs

FAMILIES: tuple[Family, ...] = (mla.FAMILY, glm5_next.FAMILY, deepseek_v4.FAMILY, deepseek_v41.FAMILY)


def family_of(architecture: str, model_type: str = "") -> Family | None:
    """Return the family of an architecture of config.json or of a draft; None where it belongs to none known here."""
    named = (one for one in FAMILIES if architecture in (*one.architectures, *one.drafts))
    typed = (one for one in FAMILIES if model_type in one.model_types)
    return next(named, None) or next(typed, None)


__all__ = ["FAMILIES", "Family", "Need", "Needs", "family_of"]
