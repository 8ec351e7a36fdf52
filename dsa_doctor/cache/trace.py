"""What a probe looked at while it ran: files that its children loaded, variables that they read, and whether one broke.

The children report it (see `probes/children/loaded.py`); the keeper checks it before it believes a kept answer.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""Variables that change no answer of a probe, and whose values shall not even be hashed."""

_MOST_FILES = 50_000
_MOST_VARIABLES = 2_000


@dataclass
class Trace:
    """Filled by a probe.

    Attributes:
        files: absolute paths of modules and libraries that a child had loaded when it answered.
        variables: names of environment variables that a child read, less those that were set for it.
        broke: a child gave no answer, so that nothing of this run may be kept.
    """

    files: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    broke: bool = False

    def add_child(self, status: str, answer: dict[str, Any], *, given: Iterable[str] = ()) -> None:
        """Take the report of a child out of its answer.

        Args:
            status: how the child ended; anything but "answered" is a failure.
            answer: its answer; the report is removed from it.
            given: names of variables that were set for the child, whatever the user's are.
        """
        loaded = answer.pop("loaded", None)
        if status != "answered" or not isinstance(loaded, dict):
            self.broke = True
            return
        files = _texts(loaded.get("files"), _MOST_FILES)
        variables = _texts(loaded.get("variables"), _MOST_VARIABLES)
        if files is None or variables is None:
            self.broke = True
            return
        self.files.update(files)
        self.variables.update(one for one in set(variables) - set(given) if not SECRET.search(one))


def _texts(value: Any, most: int) -> list[str] | None:
    fits = isinstance(value, list) and len(value) <= most and all(isinstance(one, str) for one in value)
    return value if fits else None


def digest_of_files(paths: Iterable[str], *, not_since_ns: int | None = None) -> str | None:
    """Return a digest of the paths with size, modification and change time of each; a missing file counts as such.

    Args:
        paths: absolute paths.
        not_since_ns: where a file was modified at or after this time (nanoseconds since the epoch), the result is
            None: what was loaded may have been the file before.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            found = os.stat(path)  # noqa: PTH116 - thousands of these
            known = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        except OSError:
            known = (-1, 0, 0)
        if not_since_ns is not None and max(known[1:]) >= not_since_ns:
            return None
        digest.update(f"{path}\0{known}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def digest_of_variables(names: Iterable[str]) -> str:
    """Return a digest of the values of these variables, unset ones told from empty ones."""
    digest = hashlib.sha256()
    for name in sorted(names):
        value = os.environ.get(name)
        # The length makes the boundary of each value unmistakable.
        digest.update(
            f"{name}\0{-1 if value is None else len(value)}\0{value or ''}\n".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()
