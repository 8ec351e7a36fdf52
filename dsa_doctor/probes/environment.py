"""The Python environment under examination: the running one, or another named by its interpreter or site-packages."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """Where to look for installed packages, and which interpreter runs the subprocess probes.

    Attributes:
        python: interpreter for subprocess probes; None where only files can be read (an unpacked wheel).
        search_path: folders that hold distributions, in import order.
    """

    python: Path | None
    search_path: tuple[Path, ...]

    @classmethod
    def current(cls) -> "Environment":
        """Return the environment of the running interpreter."""
        folders = tuple(Path(entry) for entry in sys.path if entry and Path(entry).is_dir())
        return cls(python=Path(sys.executable), search_path=folders)

    def distributions(self) -> Iterator[metadata.Distribution]:
        """Yield every distribution on the search path, earlier folders first."""
        yield from metadata.distributions(path=[os.fspath(folder) for folder in self.search_path])

    def package_dir(self, package: str) -> Path | None:
        """Return the folder of an import package, or None; the package is not imported."""
        for folder in self.search_path:
            candidate = folder.joinpath(*package.split("."))
            if candidate.is_dir():
                return candidate
        return None

    def relative(self, path: Path) -> str:
        """Return `path` relative to the search path folder that holds it, else its bare name: no user name leaks."""
        for folder in self.search_path:
            if path.is_relative_to(folder):
                return path.relative_to(folder).as_posix()
        return path.name
