"""The compiled top-k ops of an installed vLLM, loaded without importing vLLM."""

from __future__ import annotations

import importlib.util
import mmap
import os
from functools import lru_cache
from pathlib import Path

import torch

from dsa_kernels.selftest.case import CannotJudge, NotHere
from dsa_kernels.targets import launches_clusters

#: Names the folder of a vLLM package, or one of its extensions, to examine instead of the installed one.
FOLDER_VARIABLE = "DSA_DOCTOR_VLLM_FOLDER"

WORKSPACE_BYTES = 1024 * 1024
_DECLARED = b"top_k_per_row_prefill("

#: Arguments that each op is known to take; with others it is not called.
SIGNATURES = {
    "top_k_per_row_prefill": (
        "logits",
        "rowStarts",
        "rowEnds",
        "indices",
        "numRows",
        "stride0",
        "stride1",
        "topK",
    ),
    "top_k_per_row_decode": ("logits", "next_n", "seq_lens", "indices", "numRows", "stride0", "stride1", "topK"),
    "persistent_topk": ("logits", "lengths", "output", "workspace", "k", "max_seq_len"),
    "cooperative_topk": ("logits", "lengths", "output", "workspace", "k", "max_seq_len"),
}

#: cooperative_topk takes at most this many rows in every release that has it; vLLM gives it all batches that small.
COOPERATIVE_ROWS = 32


def library() -> Path:
    """The extension that declares the ops.

    Raises:
        NotHere: no vLLM is installed, or it has no such extension.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    if given and Path(given).is_file():
        return Path(given)
    if given:
        folders = [Path(given)]
    else:
        try:
            spec = importlib.util.find_spec("vllm")
        except (ImportError, ValueError):
            spec = None
        folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
        if not folders:
            raise NotHere("no vLLM here")
    for folder in folders:
        for candidate in sorted(folder.glob("_C*.so")):
            if _declares(candidate):
                return candidate
    raise NotHere("this vLLM has no compiled top-k ops")


def _declares(candidate: Path) -> bool:
    with candidate.open("rb") as stream:
        if candidate.stat().st_size == 0:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(_DECLARED) >= 0


@lru_cache(maxsize=1)
def load() -> str:
    """Load the extension once; its file name.

    Raises:
        NotHere: as `library`.
        CannotJudge: it cannot be loaded; the message is the loader's.
    """
    path = library()
    try:
        torch.ops.load_library(os.fspath(path))
    except (OSError, RuntimeError) as error:
        cause = str(error.__cause__ or error).replace(f"{path.parent}{os.sep}", "")
        raise CannotJudge(f"{path.name} cannot be loaded: {cause}") from error
    return path.name


def op(name: str) -> object:
    """The op of this name.

    Raises:
        NotHere: the wheel does not have it.
        CannotJudge: it takes other arguments than those known.
    """
    load()
    try:
        packet = getattr(torch.ops._C, name)
        arguments = tuple(argument.name for argument in packet.default._schema.arguments)
    except (AttributeError, RuntimeError) as error:
        raise NotHere(f"this vLLM has no {name}") from error
    if arguments != SIGNATURES[name]:
        raise CannotJudge(f"{name} takes {', '.join(arguments)}; known: {', '.join(SIGNATURES[name])}")
    return packet


def has_clusters(device: torch.device) -> bool:
    """Whether vLLM would call cooperative_topk on this GPU (9.x, 10.x and 11.x, not 8.x and 12.x)."""
    major, minor = torch.cuda.get_device_capability(device)
    return launches_clusters(10 * major + minor)


def persistent_rows(device: torch.device) -> int:
    """The fewest rows with which vLLM calls persistent_topk on this GPU; smaller batches go to cooperative_topk."""
    if not has_clusters(device):
        return 1
    try:
        op("cooperative_topk")
    except NotHere:
        return 1
    except CannotJudge:
        pass
    return COOPERATIVE_ROWS + 1
