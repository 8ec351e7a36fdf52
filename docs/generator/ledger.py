"""What is relied on in vLLM, by release, and what the plugin replaces there."""

from collections.abc import Iterable

from dsa_doctor.compat.ledger import RELIANCES
from dsa_doctor.compat.patches import OP_PATCHES, Patch
from dsa_doctor.compat.releases import VERIFIED
from dsa_doctor.plugin.families import all_patches
from generator.tables import code, page, table


def releases_page() -> str:
    """Return the verified releases and both ledgers."""
    patches = (*all_patches(), *OP_PATCHES)
    return page(
        "vLLM releases and what is relied on in them",
        f"Verified against the stock wheels of {', '.join(VERIFIED)}. For each of them the tests look up every"
        " entry below in the wheel's own sources, and ask its real selector with the target's capability in force."
        " No version number is compared anywhere: on another release the same look-up decides, and where an entry has"
        " moved the plugin changes nothing and says which one ([DSA914](checks/DSA914.md)).",
        "## What the plugin replaces",
        _patches(one for one in patches if one.use == "replaced"),
        "## What the plugin relies on",
        _patches(one for one in patches if one.use == "relied on"),
        "## What the probes rely on",
        table(
            ("In vLLM", "Used by", "What is taken from it", "Releases"),
            ((code(one.target), one.used_by, one.why, _releases(one.releases)) for one in RELIANCES),
        ),
    )


def _patches(patches: Iterable[Patch]) -> str:
    return table(
        ("In vLLM", "Why", "Upstream", "Can go when"),
        ((code(one.target), one.why, one.upstream, one.until) for one in patches),
    )


def _releases(releases: tuple[str, ...]) -> str:
    return "all" if releases == VERIFIED else ", ".join(releases)
