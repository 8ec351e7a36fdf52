"""Shortcuts for what libraries do while they are imported: the same answers in less time. Standard library only.

transformers asks which distribution every package belongs to, for which Python reads the list of every installed file
and the description of every distribution. torch asks for the source of every op's definition, and uses file name and
line; and for the module of every op, for which Python resolves the paths of all modules.
"""

import importlib.metadata as metadata
import inspect
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def install() -> None:
    """Put the shortcuts in force in this process; what this Python does in another way than known is left alone."""
    if hasattr(metadata.Distribution, "_read_files_distinfo") and hasattr(metadata, "packages_distributions"):
        metadata.packages_distributions = _few_files(metadata.packages_distributions)
    inspect.getframeinfo = _without_context(inspect.getframeinfo)
    inspect.getmodule = _by_its_globals(inspect.getmodule)


def _few_files(original: Callable[[], Any]) -> Callable[[], Any]:
    """Let the question be answered from one file of each kind per top-level folder, and from headers alone.

    Only the names of files decide, and of a distribution's metadata its name.
    """

    def packages_distributions() -> Any:
        read: Any = metadata.Distribution._read_files_distinfo  # type: ignore[attr-defined]
        read_text: Any = metadata.PathDistribution.read_text

        def read_few(distribution: Any) -> Any:
            lines = read(distribution)
            return lines and _telling(distribution, list(lines))

        def read_head(distribution: Any, filename: str) -> Any:
            text = read_text(distribution, filename)
            return text.partition("\n\n")[0] if text and filename in {"METADATA", "PKG-INFO"} else text

        metadata.Distribution._read_files_distinfo = read_few  # type: ignore[attr-defined]
        setattr(metadata.PathDistribution, "read_text", read_head)  # noqa: B010 - mypy knows its type
        try:
            return original()
        finally:
            metadata.Distribution._read_files_distinfo = read  # type: ignore[attr-defined]
            setattr(metadata.PathDistribution, "read_text", read_text)  # noqa: B010

    return packages_distributions


def _telling(distribution: Any, lines: list[str]) -> list[str]:
    """Return the lines of RECORD that decide: the first of each folder and ending, and the first whose file exists.

    Newer Pythons pass over files that are missing, older ones do not.
    """
    kept, listed, existing = [], set(), set()
    for line in lines:
        name = line.partition(",")[0]
        folder, slash, rest = name.partition("/")
        if line.startswith('"') or not slash or folder in {"", ".", ".."}:
            kept.append(line)
            continue
        file = rest.rpartition("/")[2]
        kind = folder, file[file.rfind(".") :] if "." in file else ""
        if kind in existing:
            continue
        exists = os.path.exists(str(distribution.locate_file(name)))  # noqa: PTH110 - what it gives need not be a Path
        if exists or kind not in listed:
            kept.append(line)
        listed.add(kind)
        if exists:
            existing.add(kind)
    return kept


def _without_context(original: Callable[..., Any]) -> Callable[..., Any]:
    """Spare torch's `get_source` the lines around the place: finding them walks through all modules."""

    def getframeinfo(frame: FrameType, context: int = 1) -> Any:
        caller = sys._getframe(1)
        quick = caller.f_code.co_name == "get_source" and caller.f_globals.get("__name__") == "torch._library.utils"
        return original(frame, context=0 if quick else context)

    return getframeinfo


def _by_its_globals(original: Callable[..., Any]) -> Callable[..., Any]:
    """Tell torch's `_register_fake` the module of a frame by its globals, without a search through all modules."""

    def getmodule(object: Any, _filename: Any = None) -> Any:  # noqa: A002 - inspect's own name
        caller = sys._getframe(1)
        asks = caller.f_code.co_name == "_register_fake" and caller.f_globals.get("__name__") == "torch.library"
        if asks and isinstance(object, FrameType):
            names = object.f_globals
            name = names.get("__name__", "__main__")
            module = sys.modules.get(name) if name != "__main__" else None
            if module is not None and vars(module) is names and isinstance(names.get("__file__"), str):
                return module
        return original(object, _filename)

    return getmodule
