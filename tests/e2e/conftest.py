"""The CPU build of vLLM, and the tiny model that its tests serve."""

import subprocess
from pathlib import Path

import pytest

from tests.cpu_vllm import cpu_vllm_python
from tests.once import Once, shared_folder

ORACLE = Path(__file__).with_name("oracle.py")


@pytest.fixture(scope="session")
def python() -> Path:
    """Interpreter of the CPU build's environment."""
    return cpu_vllm_python()


@pytest.fixture(scope="session")
def checkpoint(python: Path, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny GlmMoeDsa; a test that changes it works on a copy."""

    def make() -> str:
        folder = shared_folder(tmp_path_factory) / "checkpoint"
        folder.mkdir()
        subprocess.run([str(python), str(ORACLE), "make", str(folder)], check=True, capture_output=True)
        return str(folder)

    return Path(once("checkpoint", make))
