"""The Python side of vLLM releases other than the installed one, unpacked from their wheels.

Compiled modules become empty placeholders of the same name, so that "the file is there" can be told, with the schemas
of their ops beside them. A release is kept in a cache folder outside the repository ($DSA_DOCTOR_TEST_CACHE, else the
user's cache folder); pip fetches it once (300 MB, deleted afterwards), or finds it where PIP_FIND_LINKS points.
"""

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from dsa_doctor.binaries import SharedObject, op_schemas
from dsa_doctor.binaries.elf import open_bytes
from dsa_doctor.compat.emulation import SCHEMAS_SUFFIX
from dsa_doctor.compat.releases import VERIFIED

RELEASES = VERIFIED
"""The releases that the compat ledger was verified against."""

_LAYOUT = "layout-1"
_WITH_OPS = ("_C_stable_libtorch", "_moe_C_stable_libtorch")


def release_folder(version: str) -> Path:
    """Return the folder that holds the `vllm` package and the .dist-info of a release, fetching it if need be.

    Skips the test where DSA_DOCTOR_OFFLINE is set and the release is neither installed nor cached.
    """
    cache = _cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"vllm-{version}-{_LAYOUT}"
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes want the same release
        if not folder.is_dir():
            _fetch(version, folder)
    return folder


def _cache_folder() -> Path:
    if named := os.environ.get("DSA_DOCTOR_TEST_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsa-doctor-tests"


def _fetch(version: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = Path(scratch) / "unpacked"
        if _installed_version() == version:
            spec = importlib.util.find_spec("vllm")
            assert spec is not None
            assert spec.origin is not None
            _copy_installed(Path(spec.origin).parent.parent, version, unpacked)
        else:
            if os.environ.get("DSA_DOCTOR_OFFLINE"):
                pytest.skip(f"vllm {version} is not cached, and DSA_DOCTOR_OFFLINE is set")
            _unpack(_download(version, Path(scratch)), unpacked)
        _complete_schemas(unpacked)
        unpacked.rename(folder)


def _installed_version() -> str | None:
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return None


def _download(version: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        f"vllm=={version}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"vllm {version} could not be downloaded: {done.stderr[-2000:]}"
    return next(folder.glob("vllm-*.whl"))


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if _is_python_side(name):
                archive.extract(name, target)
            elif name.endswith(".so"):
                _placeholder(target / name)
                if Path(name).name.startswith(_WITH_OPS):
                    real = Path(archive.extract(name, wheel.parent))
                    _write_schemas(real, target / name)
                    real.unlink()


def _copy_installed(site_packages: Path, version: str, target: Path) -> None:
    for root in (site_packages / "vllm", site_packages / f"vllm-{version}.dist-info"):
        for file in root.rglob("*"):
            name = file.relative_to(site_packages).as_posix()
            if file.is_file() and _is_python_side(name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / name)
            elif file.suffix == ".so":
                _placeholder(target / name)
                if file.name.startswith(_WITH_OPS):
                    _write_schemas(file, target / name)


def _is_python_side(name: str) -> bool:
    return name.endswith((".py", ".json")) or ".dist-info/" in name


def _placeholder(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def _write_schemas(real: Path, placeholder: Path) -> None:
    section = SharedObject(real).section(".rodata")
    assert section is not None
    schemas = op_schemas(open_bytes(real), *section)
    Path(f"{placeholder}{SCHEMAS_SUFFIX}").write_text(json.dumps(schemas), encoding="utf-8")


def _complete_schemas(root: Path) -> None:
    """Give each schema the namespaces under which vLLM's Python side calls it: the files hold bare names."""
    called: dict[str, set[str]] = {}
    for namespace, op in _calls(root):
        called.setdefault(op, set()).add(namespace)
    for file in root.rglob(f"*{SCHEMAS_SUFFIX}"):
        qualified = set()
        for schema in json.loads(file.read_text(encoding="utf-8")):
            name = schema.partition("(")[0]
            namespaces = {name.partition("::")[0]} if "::" in name else called.get(name.partition(".")[0], set())
            qualified |= {f"{namespace}::{schema.partition('::')[2] or schema}" for namespace in namespaces}
        file.write_text(json.dumps(sorted(qualified)), encoding="utf-8")


def _calls(root: Path) -> Iterator[tuple[str, str]]:
    for file in (root / "vllm").rglob("*.py"):
        text = file.read_text(encoding="utf-8", errors="replace")
        yield from re.findall(r"torch\.ops\.(_\w+)\.(\w+)", text)
        yield from re.findall(r"""hasattr\(\s*torch\.ops\.(_\w+), ["'](\w+)["']""", text)
        yield from re.findall(r"""register_fake\(\s*["'](_\w+)::(\w+)""", text)
