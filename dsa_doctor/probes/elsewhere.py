"""Environments other than the running one: another interpreter's, a site-packages folder, a wheel not installed."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dsa_doctor.probes.child import run_child
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.isolation import is_needed
from dsa_doctor.probes.wheels import WheelError, check_wheel_name, unpack
from dsa_doctor.processes.child import scratch_folder
from dsa_doctor.reading import one_line

_START_TIMEOUT = 60.0
_VERSION = re.compile(r"\d+\.\d+\.\S{1,20}")


class UnusableEnvironmentError(ValueError):
    """What the user named cannot be examined; the message names it, what came and what is accepted."""


def environment_of_python(path: Path, *, execute: bool = True) -> Environment:
    """Return the environment of an interpreter, a virtual environment's folder, or a site-packages folder.

    A site-packages folder that belongs to a virtual environment is examined with that one's interpreter; of any other
    only the files are read, so that what needs an interpreter stays unknown.

    Args:
        path: what the user named.
        execute: whether the interpreter may be run; else the folders of its packages are found by the layout of
            installations, and only files are read.

    Raises:
        UnusableEnvironmentError: it is none of these, or the interpreter does not start.
    """
    found = _environment_of_folder(path, execute) if path.is_dir() else _environment_of_interpreter(path, execute)
    return found if execute else found.files_alone()


def _environment_of_interpreter(path: Path, execute: bool) -> Environment:
    if not path.is_file():
        raise _unusable(path, "no such file or folder", "an interpreter, the folder of a virtual environment, or a")
    python = path.absolute()  # never resolved: an interpreter knows its virtual environment by its own path
    if not execute:
        folders = _package_folders(python)
        if not folders:
            raise _unusable(path, "with --no-execute it is not run, and no site-packages folder lies beside it", "the")
        return Environment(python=python, search_path=folders)
    hidden = {name: None for name in os.environ if not is_needed(name)}
    result = run_child("search_path.py", {}, python=python, timeout=_START_TIMEOUT, environment=hidden, foreign=True)
    folders_found = result.answer.get("search_path")
    if not isinstance(folders_found, list) or not folders_found:
        said = f" ({result.evidence[-1]})" if result.evidence else ""
        problem = result.cause or "it gave no search path"
        raise UnusableEnvironmentError(
            f"--python {one_line(str(path))}: not a Python interpreter that works here: {problem}{said}."
        )
    version = str(result.answer.get("version"))
    return Environment(
        python=python,
        search_path=tuple(Path(folder) for folder in folders_found),
        python_version=version if _VERSION.fullmatch(version) else None,
    )


def _unusable(path: Path, problem: str, accepted: str) -> UnusableEnvironmentError:
    return UnusableEnvironmentError(
        f"--python {one_line(str(path))}: {problem}. Accepted: {accepted} site-packages folder."
    )


def _package_folders(python: Path) -> tuple[Path, ...]:
    """Return the folders beside an interpreter that hold packages, as CPython and Debian lay them out.

    Links of `.pth` files, as editable installations make them, are not followed.
    """
    version = re.fullmatch(r"python(3\.\d+)", python.resolve().name)
    wanted = {f"python{version[1]}", "python3"} if version else None
    patterns = ("lib*/python3*/site-packages", "lib*/python3*/dist-packages", "local/lib*/python3*/dist-packages")
    return tuple(
        folder
        for pattern in patterns
        for folder in sorted(python.parent.parent.glob(pattern))
        if folder.is_dir() and (wanted is None or folder.parent.name in wanted)
    )


def _environment_of_folder(folder: Path, execute: bool) -> Environment:
    interpreter = folder / "bin" / "python"
    if interpreter.exists():
        return _environment_of_interpreter(interpreter, execute)
    if folder.name not in {"site-packages", "dist-packages"} and not any(folder.glob("*.dist-info")):
        problem = "holds neither bin/python nor an installed distribution"
        raise _unusable(folder, problem, "an interpreter, the folder of a virtual environment, or a")
    root = folder.absolute().parents[2] if len(folder.absolute().parents) > 2 else folder
    if execute and (root / "pyvenv.cfg").is_file():
        with contextlib.suppress(UnusableEnvironmentError):
            owner = _environment_of_interpreter(root / "bin" / "python", execute)
            if any(entry.is_dir() and entry.samefile(folder) for entry in owner.search_path):
                return owner
    return Environment(python=None, search_path=(folder.absolute(),))


@contextlib.contextmanager
def environment_of_wheel(path: Path, *, execute: bool = True) -> Iterator[Environment]:
    """Unpack a wheel of vLLM, and give an environment in which it stands before what the running one holds.

    Its selector therefore runs with this environment's torch, as far as the two fit: that runs the wheel's code, for
    which its compiled modules must be files. Where nothing is run they stay in the archive, and are read there. The
    folder is removed afterwards.

    Args:
        path: the wheel.
        execute: whether its code may be run; else only its files are read.

    Raises:
        UnusableEnvironmentError: it is not a readable wheel of vLLM, or there is no room to unpack it.
    """
    accepted = "Accepted: a complete wheel of vLLM, vllm-VERSION-PYTHON-ABI-PLATFORM.whl."
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "no such file"
        raise UnusableEnvironmentError(f"--wheel {one_line(str(path))}: {problem}. {accepted}")
    with scratch_folder("dsa-doctor-wheel-") as folder:
        try:
            check_wheel_name(path.name)
            unpack(path, folder, modules=execute)
        except (WheelError, OSError) as error:
            reason = f"cannot be unpacked ({error.strerror})" if isinstance(error, OSError) else str(error)
            raise UnusableEnvironmentError(f"--wheel {one_line(str(path))}: {one_line(reason)}. {accepted}") from error
        current = Environment.current()
        found = replace(current, search_path=(folder, *current.search_path), own=False, temporary=True)
        yield found if execute else replace(found.files_alone(), wheel=path.absolute())
