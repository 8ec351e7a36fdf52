"""Drafts that a checkpoint brings and a launch leaves out: which, why, and how to take them."""

import json

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.launch.request import LaunchOptions
from dsa_doctor.verdict.schema import Verdict

_DSPARK_BLOCK = 5
"""Tokens that a published DSpark drafts at once: its dspark_block_size."""


def drafts_left_out(model: ModelGeometry, verdict: Verdict, options: LaunchOptions) -> str | None:
    """Return what to know of the drafts that are not asked for; None where there are none, or they are."""
    if not model.draft_layers or options.speculative.value:
        return None
    dspark = model.dspark is not None
    tokens = _DSPARK_BLOCK if dspark else 1
    asked = json.dumps(
        {"method": "dspark" if dspark else "mtp", "num_speculative_tokens": tokens}, separators=(",", ":")
    )
    name = f"DSpark, {model.draft_layers} stages" if dspark else f"MTP, {model.draft_layers} layer"
    untried = any(one.id == "DSA919" and one.status == "warn" for one in verdict.findings)
    why = "no GPU has run them under the plugin" if untried else "they pay off with few requests at once"
    return f"Drafts ({name}) are left out: {why}. With them:\n-- --speculative-config '{asked}'"
