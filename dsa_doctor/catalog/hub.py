"""What the Hub tells of a model beside its config.json, without downloading any weights."""

from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECONDS = 10
"""How long one request may take to connect, and to go on."""

_MOST_BYTES = 16 * 2**20


class HubError(RuntimeError):
    """A file of a model cannot be had from the Hub."""


def published_bytes(hub_id: str) -> int | None:
    """Return the bytes of all safetensors files of a model as the Hub lists them, or None where it does not say.

    One request for the list of files; call it only where the Hub was asked for the configuration already. Never raises.
    """
    from huggingface_hub import HfApi  # slow to import, seldom needed

    try:
        listed = HfApi().model_info(hub_id, files_metadata=True, timeout=SECONDS).siblings or []
    except Exception:  # as for the configuration itself: no network, gated, a server that fails
        return None
    sizes = [one.size for one in listed if one.rfilename.endswith(".safetensors") and "/" not in one.rfilename]
    if not sizes or any(not isinstance(size, int) or size < 0 for size in sizes):
        return None
    return sum(size for size in sizes if size is not None)


def fetch(hub_id: str, name: str, folder: Path) -> Path:
    """Download a small file of a model into a folder, in one attempt: whoever waits decides whether to try again.

    The Hub client's session is used, for its endpoint, proxies, token and offline switch.

    Raises:
        HubError: there is no such file, or it cannot be had; the message says why in a sentence without its full stop.
    """
    from huggingface_hub import hf_hub_url  # slow to import, seldom needed

    client: Any = import_module("huggingface_hub.utils")  # its names are re-exported without saying so
    address = hf_hub_url(hub_id, name)
    try:
        reply = client.get_session().get(
            address, headers=client.build_hf_headers(library_name="dsa-doctor"), timeout=SECONDS
        )
        client.hf_raise_for_status(reply)
        content = reply.content
    except Exception as error:  # httpx's, requests' and the client's own kinds, which differ between its releases
        raise HubError(_reason(error, address)) from error
    if len(content) > _MOST_BYTES:
        raise HubError(f"{name} is larger than {_MOST_BYTES // 2**20} MiB")
    file = folder / name
    file.write_bytes(content)
    return file


def fetch_beside(hub_id: str, name: str, folder: str) -> bool:
    """Download a small file of a model into a folder; whether it is there. Never raises.

    ModelOpt's older checkpoints say only in such a file that they are quantised.
    """
    try:
        fetch(hub_id, name, Path(folder))
    except (HubError, OSError):  # most models have no such file
        return False
    return True


def _reason(error: Exception, address: str) -> str:
    """Return why a file cannot be had, in a few words."""
    kind = type(error).__name__
    host = urlsplit(address).netloc
    if kind in {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        return f"{host} has no model of that name, or it is private and HF_TOKEN is not set"
    if kind == "GatedRepoError":
        return f"{host} gives it to those alone who accepted its terms: log in with `hf auth login`"
    if kind in {"EntryNotFoundError", "RemoteEntryNotFoundError"}:
        return "it has no such file"
    if kind == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE forbids to ask"
    if "Timeout" in kind:
        return f"{host} gave no answer within {SECONDS} s"
    if "Connect" in kind or isinstance(error, OSError):
        return f"{host} cannot be reached"
    said = (str(error).splitlines() or [""])[0][:150]
    return f"{host}: {kind}{f', {said}' if said else ''}"
