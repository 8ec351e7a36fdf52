"""Tells what this process has loaded and which environment variables its Python code has read.

A kept answer holds for as long as these are the same. Standard library only: the children import it by its bare name.
"""

import os
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

_read: set[str] = set()
_walk: deque[Any] = deque()


class _Watched(type(os.environ)):  # type: ignore[misc]  # os._Environ, under its public name
    """os.environ that remembers the names it was asked for.

    A copy of the whole, made for a process that is started, is no question for one: values that are fetched in the
    order in which a walk has handed out their names do not count.
    """

    def __iter__(self) -> Iterator[Any]:
        _walk.clear()
        for key in super().__iter__():
            _walk.append(key)
            yield key

    def __getitem__(self, key: Any) -> Any:
        if _walk and _walk[0] == key:
            _walk.popleft()
        elif isinstance(key, str):
            _walk.clear()
            _read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str):
            _read.add(key)
        return bool(super().__contains__(key))


def watch() -> None:
    """Start to remember."""
    os.environ.__class__ = _Watched


def report() -> dict[str, list[str]]:
    """Return {"files": absolute paths of loaded modules and mapped libraries, "variables": names that were read}."""
    files: set[str] = set()
    for module in list(sys.modules.values()):
        try:
            file = module.__file__
        except Exception:  # noqa: S112 - modules may answer for their attributes in any way
            continue
        if isinstance(file, str):
            files.add(os.path.abspath(file))  # noqa: PTH100 - a link is not followed: it may be what changes
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:  # noqa: PTH123
            fields = [line.rstrip("\n").split(maxsplit=5) for line in maps]
        files.update(one[5] for one in fields if len(one) == 6 and one[5].startswith("/") and ".so" in one[5])
    except OSError:
        pass  # no such file system: the modules' own files are known all the same
    return {"files": sorted(files), "variables": sorted(_read - {"DSA_DOCTOR_ANSWER_FD"})}
