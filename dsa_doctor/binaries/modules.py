"""Compiled modules of a package: files of a folder, or members of a wheel that is not unpacked."""

import zipfile
from pathlib import Path
from typing import Protocol

from dsa_doctor.binaries.elf import ElfError, open_bytes
from dsa_doctor.binaries.fatbin import Buffer


class Modules(Protocol):
    """Where compiled modules are read from."""

    def paths(self, package: str) -> list[Path]:
        """Return the paths of a top-level package's modules in order, below the folder that packages are in."""

    def read(self, path: Path) -> Buffer:
        """Return the bytes of one of these.

        Raises:
            OSError: it cannot be read.
            ElfError: it is damaged.
        """


class ModulesInFolder:
    """Files, mapped into memory.

    Args:
        root: folder that holds packages, e.g. site-packages.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def paths(self, package: str) -> list[Path]:
        """Return what exists below the package's folder."""
        return sorted((self.root / package).rglob("*.so"))

    def read(self, path: Path) -> Buffer:
        """Map a file."""
        return open_bytes(path)


class ModulesInWheel:
    """Members of an archive, one in memory at a time: what deflate has packed can only be read from its start.

    Args:
        wheel: the archive, whose table of contents was checked.
        root: folder in which its members would lie.
    """

    def __init__(self, wheel: Path, root: Path) -> None:
        self.wheel = wheel
        self.root = root

    def paths(self, package: str) -> list[Path]:
        """Return where the package's members would lie."""
        try:
            with zipfile.ZipFile(self.wheel) as archive:
                return sorted(self.root / name for name in archive.namelist() if is_module(name, package))
        except Exception:  # zipfile lets many kinds of error out; the caller's check of the table has told it
            return []

    def read(self, path: Path) -> Buffer:
        """Unpack a member into memory, as far as the table says that it reaches."""
        try:
            with zipfile.ZipFile(self.wheel) as archive:
                member = archive.getinfo(path.relative_to(self.root).as_posix())
                with archive.open(member) as stream:
                    return stream.read(member.file_size)
        except OSError:
            raise
        except Exception as error:
            raise ElfError(f"cannot be unpacked ({type(error).__name__}: {error})") from error


def is_module(name: str, package: str) -> bool:
    """Whether a member of an archive is a compiled module of a top-level package."""
    return name.startswith(f"{package}/") and name.endswith(".so")
