"""The checkpoint of a model where its files are at hand: a folder, or the Hub's cache; nothing is downloaded."""

import importlib.util
from pathlib import Path

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.checkpoint import Checkpoint, checkpoint_from_total, checkpoint_of
from dsa_doctor.planner.headers import INDEX, HeaderError, indexed_bytes, stored_tensors

_NAMED = 3
"""Unknown tensors that a warning names."""


def checkpoint_at_hand(folder: Path | None, model: ModelGeometry) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Return what the files tell of a checkpoint's bytes, and what a person should know of that.

    The headers of all its safetensors files are believed first, then the sum that its index names, both in `folder` or,
    where there is none, in the Hub's cache; then the sizes that the Hub listed when it was asked for the configuration.
    Never raises.

    Args:
        folder: of a local model; None where the model was named otherwise.
        model: the model, with its Hub id where it has one.

    Returns:
        the checkpoint, None where nothing is at hand, and warnings.
    """
    place = folder or (_cached_snapshot(model.hub_id) if model.hub_id else None)
    total = indexed_bytes(place) if place is not None else None
    if place is None:
        if model.published_bytes is None:
            return None, ()
        listed = checkpoint_from_total(model.published_bytes, model)
        return listed, listed.notes
    try:
        tensors = stored_tensors(place)
    except (HeaderError, OSError) as error:
        if total is None:
            return None, (f"the weights are counted from the configuration: {error}",)
        found = checkpoint_from_total(total, model)
        if folder is None or not any(place.glob("*.safetensors")):
            return found, found.notes
        return found, (f"the weights are counted from the sum in {INDEX}: {error}", *found.notes)
    if not tensors:
        return None, ()
    checkpoint = checkpoint_of(tensors, model)
    warnings = list(checkpoint.notes)
    if checkpoint.unrecognised:
        names = ", ".join(checkpoint.unrecognised[:_NAMED])
        warnings.append(f"{len(checkpoint.unrecognised)} tensors are counted on every GPU, not knowing them: {names}")
    return checkpoint, tuple(warnings)


def _cached_snapshot(hub_id: str) -> Path | None:
    """Return the newest snapshot folder of a model in the Hub's cache that holds its index or its only weights file."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache  # slow to import, seldom needed

    for name in (INDEX, "model.safetensors"):
        try:
            found = try_to_load_from_cache(hub_id, name)
        except (OSError, ValueError):
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None
