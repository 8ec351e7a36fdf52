"""From what the user typed to a model's geometry: catalog name, local folder or file, or Hub id."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from dsa_doctor.catalog.bounds import ConfigError
from dsa_doctor.catalog.geometry import QUANTIZATION_FILE, ModelGeometry, geometry_from_file
from dsa_doctor.catalog.hub import SECONDS, HubError, fetch, fetch_beside, published_bytes
from dsa_doctor.catalog.models import find_model, similar_names
from dsa_doctor.processes.child import scratch_folder
from dsa_doctor.reading import ReadingError, check_name

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com|modelscope\.cn)/)", re.I)
_HUB_URL = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com|modelscope\.cn/models)/"
    r"(?P<id>[\w.-]+/[\w.-]+)(?:[/?#].*)?",
    re.I,
)
"""A model's page, or a file of it, on the Hub or on what mirrors its ids."""


class UnknownModelError(ValueError):
    """The model could not be determined; the message says what was tried and what is accepted."""


class MistypedModelError(UnknownModelError):
    """The text itself names no model, whatever is installed or reachable."""


@dataclass(frozen=True)
class NamedModel:
    """What a MODEL names, looked up once: the Hub may have been asked for it.

    Attributes:
        text: as typed.
        geometry: None where it could not be determined.
        problem: why not; empty where it was.
    """

    text: str
    geometry: ModelGeometry | None
    problem: str = ""


def look_up(text: str) -> NamedModel:
    """Return what MODEL names, as `find_geometry` finds it, or why that is not known; never raises."""
    try:
        return NamedModel(text, find_geometry(text))
    except UnknownModelError as error:
        return NamedModel(text, None, str(error))


def find_geometry(text: str) -> ModelGeometry:
    """Return the geometry of MODEL: an alias or Hub id of the catalog, a local folder or config.json, or a Hub id.

    Only a Hub id that is neither in the catalog nor in the local cache is asked for over the network, and only its
    config.json. Remote code is never run.

    Raises:
        UnknownModelError: nothing of that name was found, or its config.json cannot be read.
    """
    _check_text(text)
    known = find_model(text)
    if known is not None:
        return known.geometry()
    path = Path(text).expanduser()
    try:
        if path.exists():
            return geometry_from_file(path)
    except (ConfigError, OSError) as error:
        raise UnknownModelError(f"MODEL {text!r}: {error}") from error
    if _is_hub_id(text):
        return _from_hub(text)
    raise _mistyped(text)


def check_spelling(text: str) -> None:
    """Refuse what cannot be a model: neither a name of the catalog, nor an existing path, nor a Hub id. Reads nothing.

    Raises:
        MistypedModelError: it is none of them.
    """
    _check_text(text)
    if find_model(text) is None and not Path(text).expanduser().exists() and not _is_hub_id(text):
        raise _mistyped(text)


def _mistyped(text: str) -> MistypedModelError:
    if text.startswith((".", "/", "~")) or text.endswith(".json"):
        instead = "Give a folder with a config.json, or that file."
        return MistypedModelError(f"MODEL {text!r}: no such file or folder. {instead}")
    return MistypedModelError(f"MODEL {text!r} is neither a known model nor an existing path. {_accepted(text)}")


def _check_text(text: str) -> None:
    """Refuse a URL, and what no report, script or manifest should repeat."""
    if not text.strip():
        raise MistypedModelError(f"MODEL {text!r} is empty. {_accepted(text)}")
    try:
        check_name(text)
    except ReadingError as error:
        raise MistypedModelError(
            f"MODEL {text!r}: {error}. Rename the folder, or link it under another name."
        ) from error
    if _URL.match(text):
        page = _HUB_URL.fullmatch(text)
        instead = f"Give its id: {page['id']}" if page else "Give a Hub id (org/name), or a folder with a config.json"
        raise MistypedModelError(f"MODEL {text!r} is a URL, which neither vLLM nor dsa-doctor takes. {instead}.")


def _accepted(text: str) -> str:
    near = similar_names(text)
    if near:
        return f"Did you mean {' or '.join(near)}? `dsa-doctor models` lists the names."
    return (
        "Accepted: a name that `dsa-doctor models` lists, a folder with a config.json, a config.json, or a Hub id "
        "(org/name)."
    )


def _is_hub_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and not text.startswith((".", "~")) and not text.endswith(".json")


def _from_hub(hub_id: str) -> ModelGeometry:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UnknownModelError(
            f"MODEL {hub_id!r} is not in the catalog, and reading it from the Hub needs huggingface_hub. "
            "Run `pip install huggingface_hub`, or give a local config.json."
        )
    from huggingface_hub import try_to_load_from_cache  # slow to import, seldom needed

    try:
        cached = try_to_load_from_cache(hub_id, "config.json")
        if isinstance(cached, str):
            return geometry_from_file(Path(cached)).model_copy(update={"name": hub_id, "hub_id": hub_id})
        with scratch_folder("dsa-doctor-") as folder:
            file = fetch(hub_id, "config.json", folder)
            geometry = geometry_from_file(file)
            if geometry.stored is None and fetch_beside(hub_id, QUANTIZATION_FILE, os.fspath(folder)):
                geometry = geometry_from_file(file)
    except ConfigError as error:
        raise UnknownModelError(f"MODEL {hub_id!r}: {error}") from error
    except (HubError, OSError, ValueError) as error:  # ValueError: a name that the Hub client refuses
        near = similar_names(hub_id)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UnknownModelError(
            f"MODEL {hub_id!r} could not be read from the Hub: {error} (one attempt, {SECONDS} s).{hint} "
            "Offline, give the folder or the config.json of a copy."
        ) from error
    source = f"config.json of {hub_id} on the Hub"
    update = {"name": hub_id, "hub_id": hub_id, "source": source, "published_bytes": published_bytes(hub_id)}
    return geometry.model_copy(update=update)
