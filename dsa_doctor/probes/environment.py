"""The Python environment under examination: the running one, or another named by its interpreter or site-packages."""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from dsa_doctor.binaries.modules import Modules, ModulesInFolder, ModulesInWheel
from dsa_doctor.compat.settings import changes_answers
from dsa_doctor.facts.observation import NOTHING_IS_RUN
from dsa_doctor.probes.isolation import is_needed


@dataclass(frozen=True)
class Environment:
    """Where to look for installed packages, and which interpreter runs the subprocess probes.

    Attributes:
        python: interpreter for subprocess probes; None where only files can be read (an unpacked wheel).
        search_path: folders that hold distributions, in import order.
        own: whether it is the running one, so that this process's environment variables are those it would serve with.
        temporary: whether a folder was made for this run, so that nothing that is said of it holds for another.
        without_python: why there is no interpreter, where there is none.
        wheel: archive that holds the compiled modules of vLLM, where they are read in place.
        python_version: of the interpreter, where it was asked or is the running one; None where it was not run.
    """

    python: Path | None
    search_path: tuple[Path, ...]
    own: bool = False
    temporary: bool = False
    without_python: str = "no interpreter belongs to these files"
    wheel: Path | None = None
    python_version: str | None = None

    @classmethod
    def current(cls) -> "Environment":
        """Return the environment of the running interpreter."""
        folders = tuple(Path(entry) for entry in sys.path if entry and Path(entry).is_dir())
        version = platform.python_version()
        return cls(python=Path(sys.executable), search_path=folders, own=True, python_version=version)

    def files_alone(self) -> "Environment":
        """Return this environment with nothing of it run: what needs an interpreter is then unknown."""
        return replace(self, python=None, temporary=True, without_python=NOTHING_IS_RUN)

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

    def modules(self, root: Path) -> Modules:
        """Return the compiled modules below one of the folders that hold packages."""
        return ModulesInFolder(root) if self.wheel is None else ModulesInWheel(self.wheel, root)

    def import_order(self) -> list[str]:
        """Return the search path as a child's `import_path.follow` takes it."""
        return [os.fspath(folder) for folder in self.search_path]

    def hidden_settings(self) -> dict[str, str | None]:
        """Return, as to be taken away, all of this process's variables that another environment has no need of.

        Its settings say nothing about another environment, and its tokens are none of that one's business.
        """
        return {} if self.own else {name: None for name in os.environ if changes_answers(name) or not is_needed(name)}

    def shorten(self, text: str) -> str:
        """Return `text` with the paths below the search path made relative, so that they name no user."""
        for folder in sorted(map(os.fspath, self.search_path), key=len, reverse=True):
            text = text.replace(folder.rstrip(os.sep) + os.sep, "")
        return text

    def relative(self, path: Path) -> str:
        """Return `path` relative to the search path folder that holds it, else its bare name: no user name leaks.

        The nearest of them: an environment may lie in a folder that is on the path too, such as .venv in a checkout.
        """
        holding = [folder for folder in self.search_path if path.is_relative_to(folder)]
        if not holding:
            return path.name
        return path.relative_to(max(holding, key=lambda folder: len(folder.parts))).as_posix()
