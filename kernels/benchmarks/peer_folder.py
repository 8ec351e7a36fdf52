"""Kernels of other projects, found in a folder at run time. None of their sources is part of this project.

The folder has one folder, or one Python file, for each peer. A function is recognised by its name: one of those under
which forks of vLLM for compute capability 8.0 carry their kernels, or the name of an op in `PARAMETERS`, for whoever
writes a few lines around anything else. Arguments are given by the names of the function's parameters.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsa_kernels.bench.case import first_line

#: Ops, and under which names their values are taken.
PARAMETERS: dict[str, dict[str, str]] = {
    "sparse_mla": {name: name for name in ("q", "kv", "indices", "sm_scale", "d_v")},
    "sparse_mla_fp8": {name: name for name in ("q", "cache", "indices", "sm_scale", "d_v")},
    "ragged_logits": {
        **dict.fromkeys(("q", "q_fp8"), "q"),
        **dict.fromkeys(("k", "k_fp8"), "k"),
        **dict.fromkeys(("k_scale", "k_scales", "kv_scales"), "k_scale"),
        "kv": "k and k_scale",
        "weights": "weights",
        **dict.fromkeys(("starts", "cu_seqlen_ks", "cu_starts"), "starts"),
        **dict.fromkeys(("ends", "cu_seqlen_ke", "cu_ends"), "ends"),
        "clean_logits": "clean_logits",
    },
    "paged_logits": {
        **dict.fromkeys(("q", "q_fp8"), "q"),
        **dict.fromkeys(("cache", "kv_cache", "kv_cache_fp8"), "cache"),
        "weights": "weights",
        **dict.fromkeys(("lengths", "context_lens"), "lengths"),
        **dict.fromkeys(("block_tables", "block_table"), "block_tables"),
        **dict.fromkeys(("width", "max_model_len", "max_context_len"), "width"),
        "clean_logits": "clean_logits",
    },
    "topk": {"logits": "logits", "ends": "ends", "k": "topk"},
}

#: Entry points of vLLM's forks and of vLLM's XPU kernel, and the op that they are measured as; an op's name is one too.
ENTRY_POINTS = {op: op for op in PARAMETERS} | {
    "triton_mla_sparse_attention": "sparse_mla",
    "triton_bf16_mla_sparse_interface": "sparse_mla",
    "fp8_mqa_logits_triton": "ragged_logits",
    "fp8_paged_mqa_logits_triton": "paged_logits",
}

#: Optional parameters that are given all the same: the op beside them leaves what it does not write.
GIVEN_WHERE_OPTIONAL = ("clean_logits",)

Call = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Function:
    """A peer's entry point.

    Attributes:
        peer: whose it is: the name of the folder or file.
        name: of the function.
        op: what it is measured as.
        call: takes the op's values by the values of `PARAMETERS`.
    """

    peer: str
    name: str
    op: str
    call: Call


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        functions: what can be measured.
        lines: one for each file, with what became of it: nothing is passed over in silence.
    """

    functions: tuple[Function, ...]
    lines: tuple[str, ...]


def find_peers(folder: Path) -> Found:
    """Load every peer of a folder.

    Raises:
        FileNotFoundError: it is no folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--folder {folder}: not a folder. Accepted: a folder with one folder or file a peer.")
    functions: list[Function] = []
    lines: list[str] = []
    for peer in sorted(folder.iterdir()):
        if peer.name.startswith(".") or peer.name == "__pycache__":
            continue
        files = sorted(one for one in peer.rglob("*") if one.is_file()) if peer.is_dir() else [peer]
        for path in files:
            if "__pycache__" in path.parts:
                continue
            made, said = _load_file(peer.stem, path, peer if peer.is_dir() else folder)
            functions += made
            lines.append(f"{path.relative_to(folder)}: {said}")
    return Found(tuple(functions), tuple(lines) or (f"{folder}: empty",))


def _load_file(peer: str, path: Path, root: Path) -> tuple[list[Function], str]:
    if path.suffix != ".py":
        return [], "not loaded: no Python; an adapter can call it"
    try:
        names = [one for one in _functions_of(path) if one in ENTRY_POINTS]
    except (SyntaxError, ValueError) as error:
        return [], f"not loaded: {first_line(error)}"
    if not names:
        return [], "no entry point that is known here; loaded where a peer imports it"
    try:
        module = _import(peer, path, root)
    except Exception as error:
        return [], f"not loaded: {first_line(error)}"
    made, said = [], []
    for name in names:
        op = ENTRY_POINTS[name]
        try:
            made.append(Function(peer, name, op, _bound(getattr(module, name), op)))
            said.append(f"{name} as {op}")
        except TypeError as error:
            said.append(f"{name} not called: {error}")
    return made, ", ".join(said)


def _functions_of(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (one.name for one in tree.body if isinstance(one, ast.FunctionDef))


def _import(peer: str, path: Path, root: Path) -> Any:
    """Import a file by itself; what it imports is looked for in the peer's folder first."""
    spec = importlib.util.spec_from_file_location(f"_peer_{peer}_{path.stem}".replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _first_on_the_path(root):
        sys.modules[spec.name] = module  # Triton looks up the module of what it compiles
        spec.loader.exec_module(module)
    return module


@contextmanager
def _first_on_the_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _bound(function: Callable[..., Any], op: str) -> Call:
    """A call of `function` by its parameters' names.

    Raises:
        TypeError: it asks for something that the op does not have; the message names it.
    """
    taken: dict[str, str] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        optional = parameter.default is not inspect.Parameter.empty
        value = PARAMETERS[op].get(name)
        if value is not None and (not optional or value in GIVEN_WHERE_OPTIONAL):
            taken[name] = value
        elif not optional:
            raise TypeError(f"parameter {name!r} is not known for {op}; an adapter can give it")
    if "k_scale" in taken.values():  # then `kv` are the keys alone
        taken = {name: "k" if value == "k and k_scale" else value for name, value in taken.items()}

    def call(values: Mapping[str, Any]) -> Any:
        found = function(**{name: values[value] for name, value in taken.items()})
        return found[0] if isinstance(found, tuple | list) else found

    return call
