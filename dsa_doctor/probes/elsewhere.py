"""Environments other than the running one: another interpreter's, a site-packages folder, a wheel not installed."""

import contextlib
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from dsa_doctor.probes.child import run_child
from dsa_doctor.probes.environment import Environment
from dsa_doctor.processes.child import ChildPool, scratch_folder

_START_TIMEOUT = 60.0
_WANTED = re.compile(r"\.(?:py|json)\Z|\.so(?:\.\d+)*\Z|\.dist-info/")
"""Members of a wheel that the probes read or that an import needs; C++ headers and executables are neither."""

_UNPACKERS = 4
"""Threads: decompression leaves Python's lock."""


class UnusableEnvironmentError(ValueError):
    """What the user named cannot be examined; the message names it, what came and what is accepted."""


def environment_of_python(path: Path) -> Environment:
    """Return the environment of an interpreter, a virtual environment's folder, or a site-packages folder.

    A site-packages folder that belongs to a virtual environment is examined with that one's interpreter; of any other
    only the files are read, so that what needs an interpreter stays unknown.

    Raises:
        UnusableEnvironmentError: it is none of these, or the interpreter does not start.
    """
    if path.is_dir():
        return _environment_of_folder(path)
    if not path.is_file():
        raise UnusableEnvironmentError(
            f"--python {path}: no such file or folder. Accepted: an interpreter, the folder of a virtual environment, "
            "or a site-packages folder."
        )
    python = path.absolute()  # never resolved: an interpreter knows its virtual environment by its own path
    result = run_child("search_path.py", {}, python=python, timeout=_START_TIMEOUT)
    folders = result.answer.get("search_path")
    if not isinstance(folders, list) or not folders:
        said = f" ({result.evidence[-1]})" if result.evidence else ""
        problem = result.cause or "it gave no search path"
        raise UnusableEnvironmentError(f"--python {path}: not a Python interpreter that works here: {problem}{said}.")
    return Environment(python=python, search_path=tuple(Path(folder) for folder in folders))


def _environment_of_folder(folder: Path) -> Environment:
    interpreter = folder / "bin" / "python"
    if interpreter.exists():
        return environment_of_python(interpreter)
    if folder.name not in {"site-packages", "dist-packages"} and not any(folder.glob("*.dist-info")):
        raise UnusableEnvironmentError(
            f"--python {folder}: holds neither bin/python nor an installed distribution. Accepted: an interpreter, "
            "the folder of a virtual environment, or a site-packages folder."
        )
    root = folder.absolute().parents[2] if len(folder.absolute().parents) > 2 else folder
    if (root / "pyvenv.cfg").is_file():
        with contextlib.suppress(UnusableEnvironmentError):
            owner = environment_of_python(root / "bin" / "python")
            if any(entry.is_dir() and entry.samefile(folder) for entry in owner.search_path):
                return owner
    return Environment(python=None, search_path=(folder.absolute(),))


@contextlib.contextmanager
def environment_of_wheel(path: Path) -> Iterator[Environment]:
    """Unpack a wheel of vLLM, and give an environment in which it stands before what the running one holds.

    Its selector therefore runs with this environment's torch, as far as the two fit. The folder is removed afterwards.

    Raises:
        UnusableEnvironmentError: it is not a readable wheel of vLLM, or there is no room to unpack it.
    """
    _check_name(path)
    with scratch_folder("dsa-doctor-wheel-") as folder:
        try:
            _unpack(path, folder)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UnusableEnvironmentError(
                f"--wheel {path}: cannot be unpacked ({type(error).__name__}: {reason}). "
                "Accepted: a complete .whl file."
            ) from error
        current = Environment.current()
        yield Environment(python=Path(sys.executable), search_path=(folder, *current.search_path), temporary=True)


def _check_name(path: Path) -> None:
    if not path.is_file():
        raise UnusableEnvironmentError(f"--wheel {path}: no such file. Accepted: a wheel of vLLM, vllm-*.whl.")
    try:
        name, *_ = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise UnusableEnvironmentError(
            f"--wheel {path}: not the name of a wheel ({error}). Accepted: vllm-VERSION-PYTHON-ABI-PLATFORM.whl."
        ) from error
    if name != canonicalize_name("vllm"):
        raise UnusableEnvironmentError(f"--wheel {path}: a wheel of {name}. Accepted: a wheel of vLLM, vllm-*.whl.")


def _unpack(path: Path, folder: Path) -> None:
    """Unpack what is wanted, the largest files first, side by side."""
    with zipfile.ZipFile(path) as archive:
        members = sorted(
            (one for one in archive.infolist() if _WANTED.search(one.filename)), key=lambda one: -one.file_size
        )
        inside = [PurePosixPath(one.filename) for one in members]
        if any(name.is_absolute() or ".." in name.parts for name in inside):
            raise zipfile.BadZipFile("it holds paths that lead out of it")
        if not any(name.parts[0] == "vllm" for name in inside):
            raise zipfile.BadZipFile("it holds no folder vllm")
        wanted, free = sum(one.file_size for one in members), shutil.disk_usage(folder).free
        if wanted > free:
            raise OSError(f"it needs {wanted >> 20} MiB in {tempfile.gettempdir()}, and {free >> 20} are free")
        for parent in {name.parent for name in inside}:  # beforehand: two threads would race for them
            (folder / parent).mkdir(parents=True, exist_ok=True)
        with ChildPool(max_workers=_UNPACKERS) as pool:
            for _ in pool.map(lambda member: archive.extract(member, folder), members):
                pass
