"""What can change a probe's answer and can be told without running it: the environment's identity.

Files are told apart by path, size, modification and change time; the change time cannot be set back by an unpacker that
restores dates. What else a run has loaded is in its trace.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dsa_doctor
from dsa_doctor.cache.trace import SECRET, digest_of_variables
from dsa_doctor.probes.environment import Environment

_VARIABLES = re.compile(
    r"(?:VLLM|TORCH|TORCHINDUCTOR|PYTORCH|CUDA|NVIDIA|NCCL|FLASHINFER|FLASH_ATTN|TRITON|TILELANG|DG|DEEP_GEMM|CUTLASS|CUTE"
    r"|HF|HUGGINGFACE|TRANSFORMERS|PYTHON|LD|OMP|MKL|KMP|GLIBC|MALLOC|DSA_DOCTOR|XDG)_\w+|PATH|HOME|PYTHON\w+|USE_\w+"
)
"""Variables that vLLM, torch, CUDA, the loader and Python read, in C++ too, where no trace sees it."""

_REPLACED = frozenset(
    {
        *("DSA_DOCTOR_CACHE", "DSA_DOCTOR_PLUGIN", "HF_HUB_OFFLINE", "PYTHONDONTWRITEBYTECODE"),
        *(
            "VLLM_NO_USAGE_STATS",
            "VLLM_PLUGINS",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
            "XDG_STATE_HOME",
        ),
    }
)
"""Variables that the probes set for their children, or whose value no probe depends on."""

_IMPORTABLE = (".py", ".pth", ".egg-link", ".zip", ".egg")
_WALKED = (".py", ".so")
_METADATA = ("RECORD", "METADATA", "PKG-INFO", "entry_points.txt", "direct_url.json", "top_level.txt")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/proc/driver/nvidia/version", "/usr/local/cuda", "/usr/local/cuda/version.json")
_DRIVER_LIBRARIES = re.compile(r"lib(?:cuda|nvidia-ml|nvidia-ptxjitcompiler)\.so\.\d+\Z")
_LIBRARY_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
)


def identity(environment: Environment) -> dict[str, Any]:
    """Return the ingredients by name, each a plain JSON value; two runs with equal ones get equal answers.

    Raises:
        OSError: a file that must be there cannot be looked at.
    """
    return {
        "dsa_doctor": [dsa_doctor.__version__, _digest(_walk(Path(dsa_doctor.__file__).parent, (".py",)))],
        "python": _interpreter(environment),
        "search_path": [_folder(folder) for folder in environment.search_path],
        "distributions": _digest(line for folder in environment.search_path for line in _metadata(folder)),
        "packages": _digest(_packages(environment)),
        "variables": digest_of_variables(name for name in os.environ if counts(name)),
        "system": [*platform.uname()[:1], platform.release(), platform.machine(), *platform.libc_ver(), os.geteuid()],
        "driver": _digest(_driver()),
        "toolkit": _stamp(shutil.which("nvcc") or ""),
    }


def counts(variable: str) -> bool:
    """Whether a variable's value is part of the identity."""
    return (
        _VARIABLES.fullmatch(variable) is not None and variable not in _REPLACED and (SECRET.search(variable) is None)
    )


def key_of(ingredients: dict[str, Any]) -> str:
    """Return the name of an entry: a digest, from which nothing can be read back."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


def _interpreter(environment: Environment) -> list[Any]:
    python = environment.python
    if python is None:
        return []
    configuration = python.parent.parent / "pyvenv.cfg"
    version = sys.version if python == Path(sys.executable) else ""
    return [
        environment.own,
        os.fspath(python),
        _stamp(python),
        os.path.realpath(python),
        _stamp(configuration),
        version,
    ]


def _folder(folder: Path) -> list[str]:
    """Return a folder of the search path with a digest of what can be imported from it or changes how imports go."""

    def lines() -> Iterator[str]:
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            if entry.name.endswith((".pth", ".egg-link")):
                yield f"{entry.name} {_stamp(entry.path)}"
            elif entry.name != "__pycache__" and (
                entry.name.endswith(_IMPORTABLE) or ".so" in entry.name or entry.is_dir()
            ):
                yield entry.name

    try:
        return [os.fspath(folder), _digest(lines())]
    except OSError as error:
        return [os.fspath(folder), type(error).__name__]


def _metadata(folder: Path) -> Iterator[str]:
    try:
        entries = sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith((".dist-info", ".egg-info")))
    except OSError:
        return
    for path in entries:
        if os.path.isdir(path):  # noqa: PTH112 - thousands of these
            yield from (f"{path}/{name} {_stamp(f'{path}/{name}')}" for name in _METADATA)
        else:
            yield f"{path} {_stamp(path)}"


def _packages(environment: Environment) -> Iterator[str]:
    """Yield the files that the probes read themselves: vLLM's sources and modules, DeepGEMM's, torch's and CUDA's."""
    for package in ("vllm", "deep_gemm", "flash_mla"):
        folder = environment.package_dir(package)
        if folder is not None:
            yield from _walk(folder, _WALKED)
    torch = environment.package_dir("torch")
    if torch is not None:
        yield from _walk(torch / "lib", (".so",))
        yield f"version.py {_stamp(torch / 'version.py')}"
    for site in environment.search_path:
        for folder in sorted(site.glob("nvidia/*/lib*")):
            yield from _walk(folder, (".so",))


def _driver() -> Iterator[str]:
    for path in _SYSTEM_FILES:
        yield f"{path} {os.path.realpath(path)} {_content(path) if path.startswith('/proc/') else _stamp(path)}"
    yield " ".join(sorted(name for name in _names("/dev") if name.startswith("nvidia")))
    folders = [one for one in os.environ.get("LD_LIBRARY_PATH", "").split(":") if one]
    for folder in (*_LIBRARY_FOLDERS, *folders):
        wanted = sorted(
            name for name in _names(folder) if _DRIVER_LIBRARIES.match(name) or (folder in folders and ".so" in name)
        )
        yield from (f"{folder}/{name} {_stamp(f'{folder}/{name}')}" for name in wanted)


def _walk(root: Path, endings: tuple[str, ...]) -> Iterator[str]:
    """Yield every file below a folder whose name ends so or is of a versioned library, with its stamp."""
    pending = [os.fspath(root)]
    while pending:
        try:
            entries = sorted(os.scandir(pending.pop()), key=lambda one: one.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir():
                if entry.name != "__pycache__" and not entry.is_symlink():
                    pending.append(entry.path)
            elif entry.name.endswith(endings) or ".so." in entry.name:
                yield f"{entry.path} {_stamp(entry.path)}"


def _stamp(path: str | Path) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands of these
    except OSError:
        return "-"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:  # noqa: PTH123
            return stream.read(4096)
    except OSError:
        return "-"


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
