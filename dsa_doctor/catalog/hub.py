"""What the Hub tells of a model beside its config.json, without downloading any weights."""

_SECONDS = 10


def published_bytes(hub_id: str) -> int | None:
    """Return the bytes of all safetensors files of a model as the Hub lists them, or None where it does not say.

    One request for the list of files; call it only where the Hub was asked for the configuration already. Never raises.
    """
    from huggingface_hub import HfApi  # slow to import, seldom needed

    try:
        listed = HfApi().model_info(hub_id, files_metadata=True, timeout=_SECONDS).siblings or []
    except Exception:  # as for the configuration itself: no network, gated, a server that fails
        return None
    sizes = [one.size for one in listed if one.rfilename.endswith(".safetensors") and "/" not in one.rfilename]
    if not sizes or any(not isinstance(size, int) or size < 0 for size in sizes):
        return None
    return sum(size for size in sizes if size is not None)


def fetch_beside(hub_id: str, name: str, folder: str) -> bool:
    """Download a small file of a model into a folder; whether it is there. Never raises.

    ModelOpt's older checkpoints say only in such a file that they are quantised.
    """
    from huggingface_hub import hf_hub_download  # slow to import, seldom needed

    try:
        hf_hub_download(hub_id, name, local_dir=folder)
    except Exception:  # most models have no such file
        return False
    return True
