"""Finds the shared libraries that an extension needs, where the dynamic loader or torch would."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from dsa_doctor.binaries import ElfError, SharedObject
from dsa_doctor.probes.environment import Environment

_SYSTEM_FOLDERS = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/usr/local/cuda/lib64")
_LOADER_CONFIGURATION = Path("/etc/ld.so.conf.d")

_OWN_SYMBOLS: tuple[tuple[str, str], ...] = (
    # A library of torch or CUDA, and how the names that it alone may define start.
    # torch's libraries also carry the parts of the C++ standard library that older systems lack.
    (
        r"lib(torch|c10)",
        r"_Z(GV|TI|TS|TV|Th?n?[0-9_]*)?N[KVRO]*(2at|3c10|5torch|6caffe2|St)|_ZSt|aoti_torch_|torch_",
    ),
    (r"libcudart", r"cuda[A-Z]|__cuda"),
    (r"libcuda\.", r"cu[A-Z]"),
    (r"libcublasLt", r"cublas"),
    (r"libcublas", r"cublas"),
    (r"libnvrtc", r"nvrtc"),
    (r"libnccl", r"p?nccl"),
    (r"libcudnn", r"cudnn"),
    (r"libcusparse", r"cusparse"),
    (r"libcusolver", r"cusolver"),
    (r"libcurand", r"curand"),
    (r"libcufft", r"cufft"),
    (r"libnvToolsExt|libnvtx", r"nvtx"),
    (r"libcupti", r"cupti"),
    (r"libnvidia-ml", r"nvml"),
    (r"libpython", r"_?Py"),
)
_TORCH = ("libtorch", "libc10")
_ANY_OWN_SYMBOL = "|".join(prefix for _, prefix in _OWN_SYMBOLS)


@dataclass
class LibraryIndex:
    """Folders to look in, and what has been read from them so far."""

    folders: tuple[Path, ...]
    _read: dict[Path, SharedObject | None] = field(default_factory=dict)

    @classmethod
    def of(cls, environment: Environment) -> "LibraryIndex":
        """Return an index over torch's folder, NVIDIA's wheels, LD_LIBRARY_PATH and the system's folders."""
        folders: list[Path] = []
        for site in environment.search_path:
            folders += [
                site / "torch" / "lib",
                *sorted(site.glob("nvidia/*/lib")),
                *sorted(site.glob("nvidia/*/lib64")),
            ]
        folders += [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
        if environment.python is not None:
            folders.append(environment.python.parent.parent / "lib")  # a conda environment
        return cls(tuple(folder for folder in dict.fromkeys([*folders, *_system_folders()]) if folder.is_dir()))

    @property
    def looked_at(self) -> list[str]:
        """Return the absolute paths that libraries were looked for at, those where none was among them."""
        return [os.path.abspath(path) for path in self._read]  # noqa: PTH100 - a link is what may change

    def find(self, name: str, near: Path, run_path: Iterable[str] = ()) -> SharedObject | None:
        """Return the library called `name`, or None where it is not installed (or cannot be read)."""
        own = [
            Path(entry.replace("$ORIGIN", os.fspath(near)).replace("${ORIGIN}", os.fspath(near))) for entry in run_path
        ]
        for folder in (*own, *self.folders):
            candidate = folder / name
            if candidate not in self._read:
                self._read[candidate] = _read(candidate)
            if (library := self._read[candidate]) is not None:
                return library
        return None


@dataclass(frozen=True)
class Linkage:
    """What the loader would make of one extension.

    Attributes:
        unresolved: undefined symbols that nothing provides, and that no missing library of CUDA or torch can hold.
        missing_libraries: needed libraries, direct or not, that are not installed here.
    """

    unresolved: tuple[str, ...]
    missing_libraries: tuple[str, ...]


def link(extension: SharedObject, index: LibraryIndex) -> Linkage:
    """Resolve the undefined symbols of `extension` against the libraries it needs, and those that they need.

    Where a needed library is not installed, the symbols that may be its own cannot be judged: `cuda*` for libcudart,
    and so on; names in torch's namespaces for torch's libraries, and with these all names of CUDA's, which torch needs
    in turn. A missing library that is not one of these leaves nothing to be judged, so `unresolved` is then empty.
    Symbols of the Python C API come from the interpreter.
    """
    pending = {name for name in extension.undefined_symbols() if not re.match(r"_?Py[A-Z_]", name)}
    missing: list[str] = []
    seen: set[str] = set()
    queue = [(name, extension) for name in extension.needed]
    while queue:
        name, wanted_by = queue.pop(0)
        if name in seen:
            continue
        seen.add(name)
        library = index.find(name, wanted_by.path.parent, wanted_by.run_path)
        if library is None:
            missing.append(name)
            continue
        try:
            pending -= library.provided(pending)
        except ElfError:  # as good as missing
            missing.append(name)
            continue
        queue += [(needed, library) for needed in library.needed]
    for name in missing:
        own = (
            _ANY_OWN_SYMBOL
            if name.startswith(_TORCH)
            else next((prefix for library, prefix in _OWN_SYMBOLS if re.match(library, name)), "")
        )
        pending = {symbol for symbol in pending if not re.match(own, symbol)}
    return Linkage(tuple(sorted(pending)), tuple(missing))


@lru_cache(maxsize=1)
def _system_folders() -> tuple[Path, ...]:
    folders = [Path(entry) for entry in _SYSTEM_FOLDERS]
    folders += [multiarch for base in ("/lib", "/usr/lib") for multiarch in sorted(Path(base).glob("*-linux-gnu*"))]
    if _LOADER_CONFIGURATION.is_dir():
        for file in sorted(_LOADER_CONFIGURATION.glob("*.conf")):
            try:
                lines = file.read_text(errors="replace").splitlines()
            except OSError:  # unreadable configuration names no folder
                continue
            folders += [Path(line.strip()) for line in lines if line.startswith("/")]
    return tuple(folders)


def _read(path: Path) -> SharedObject | None:
    try:
        return SharedObject(path) if path.is_file() else None
    except (ElfError, OSError):
        return None
