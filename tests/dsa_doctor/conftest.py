"""The installed vLLM, Triton's CUDA tools, and temporary environments made of modified copies of real files."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.probes.environment import Environment
from tests.once import shared_folder


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name} is not installed: pip install -e '.[vllm,test]'")
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.fixture(scope="session")
def vllm_dir() -> Path:
    """Folder of the installed vLLM, which is not imported."""
    return _package_folder("vllm")


@pytest.fixture(scope="session")
def torch_dir() -> Path:
    """Folder of the installed torch."""
    return _package_folder("torch")


@pytest.fixture(scope="session")
def extensions(vllm_dir: Path) -> list[Path]:
    """Every compiled module of the installed vLLM."""
    found = sorted(vllm_dir.rglob("*.so"))
    assert found, "the installed vLLM holds no compiled module; the tests need a stock wheel"
    return found


@pytest.fixture(scope="session")
def main_extension(extensions: list[Path]) -> Path:
    """The extension that holds the cache, top-k and norm ops."""
    return next(path for path in extensions if path.name.startswith("_C_stable_libtorch"))


@pytest.fixture(scope="session")
def cuobjdump() -> Path:
    """NVIDIA's own reader, from Triton's wheel."""
    return _package_folder("triton") / "backends" / "nvidia" / "bin" / "cuobjdump"


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Environment]:
    """Make an environment whose first folder holds given packages, followed by the real one."""

    def make(files: dict[str, bytes | str | Path], *, python: Path | None = Path(sys.executable)) -> Environment:
        root = tmp_path / "site-packages"
        for name, content in files.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                target.symlink_to(content)
            elif isinstance(content, bytes):
                target.write_bytes(content)
            else:
                target.write_text(content, encoding="utf-8")
        return Environment(python=python, search_path=(root, *Environment.current().search_path))

    return make


@pytest.fixture
def fake_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put an executable shell script first in PATH."""

    def make(name: str, body: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        tool = folder / name
        tool.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return tool

    return make


@pytest.fixture
def told_before(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands that a test starts find what slow probes told those of other tests of this run."""
    monkeypatch.setenv("DSA_DOCTOR_CACHE", "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_folder(tmp_path_factory) / "told"))
