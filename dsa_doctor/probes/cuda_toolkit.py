"""The CUDA toolkit that compilation at run time would use.

DeepGEMM, the copy in vLLM included, takes CUDA_HOME or else CUDA_PATH as it stands, then the folder above the nvcc in
PATH, then /usr/local/cuda, and asserts that one of these exists (`_find_cuda_home` in its `__init__.py` up to vLLM
0.29; its C++ side later asks the same). A wheel of NVIDIA's compiler is looked for last: TileLang, FlashInfer and torch
find it, the DeepGEMM of the older releases does not. TileLang looks in the same places (`_find_cuda_home` in its
`env.py`), runs nvcc and nothing else (NVRTC only where it is asked for), and names it a C++ compiler
(`get_cplus_compiler` in `contrib/cc.py`).
"""

import json
import os
import re
import shutil
from pathlib import Path

from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import CudaToolkit
from dsa_doctor.probes.environment import Environment
from dsa_doctor.processes.child import run
from dsa_doctor.redaction import last_lines

_TIMEOUT = 20.0
_DEFAULT_HOME = Path("/usr/local/cuda")
_WHEEL_FOLDERS = ("nvidia/cu*/bin/nvcc", "nvidia/cuda_nvcc/bin/nvcc")
_HOST_COMPILERS = ("g++", "clang++", "c++")


def probe(environment: Environment) -> Observation[CudaToolkit]:
    """Return the toolkit that would be used, and its compiler's version; absent where there is none."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            nvcc = Path(home) / "bin" / "nvcc"
            if not nvcc.is_file():
                cause = f"{variable} is set, but the folder that it names holds no bin/nvcc; it is used all the same"
                return Observation[CudaToolkit].absent(cause)
            return _found(variable, nvcc)
    if on_path := shutil.which("nvcc"):
        return _found("PATH", Path(on_path))
    if (nvcc := _DEFAULT_HOME / "bin" / "nvcc").is_file():
        return _found("default folder", nvcc)
    for folder in environment.search_path:
        for pattern in _WHEEL_FOLDERS:
            for nvcc in sorted(folder.glob(pattern)):
                return _found("pip package nvidia-cuda-nvcc", nvcc)
    return Observation[CudaToolkit].absent(
        "no CUDA toolkit: CUDA_HOME and CUDA_PATH are not set, nvcc is not in PATH, /usr/local/cuda is not there"
    )


def _found(found_by: str, nvcc: Path) -> Observation[CudaToolkit]:
    version, evidence = _version(nvcc)
    made = CudaToolkit(found_by=found_by, nvcc_version=version, host_compiler=_has_host_compiler())
    return Observation[CudaToolkit].ok(made, evidence=evidence)


def _has_host_compiler() -> bool:
    """Return whether the compiler that CXX or CC names is there, else whether one of the usual names is."""
    named = os.environ.get("CXX") or os.environ.get("CC")
    return any(shutil.which(name) for name in (_HOST_COMPILERS if not named else named.split()[:1]))


def _version(nvcc: Path) -> tuple[str | None, tuple[str, ...]]:
    """Return the version by version.json beside the compiler's folder, else by asking it; and why there is none."""
    try:
        listed = json.loads((nvcc.resolve().parent.parent / "version.json").read_text(encoding="utf-8"))
        return str(listed["cuda_nvcc"]["version"]), ()
    except (OSError, ValueError, KeyError, TypeError):
        pass  # many installations have no such file; the compiler itself knows
    answer = run([nvcc, "--version"], timeout=_TIMEOUT)
    if answer.status == "timeout":
        return None, (f"nvcc --version {answer.problem}",)
    if answer.status == "not_started":
        return None, (f"nvcc cannot be started: {answer.problem}",)
    stdout, stderr = answer.stdout.decode("utf-8", "replace"), answer.stderr.decode("utf-8", "replace")
    if match := re.search(r"release [\d.]+, V([\d.]+)", stdout):
        return match[1], ()
    return None, (
        f"nvcc --version {answer.problem or 'ended with exit status 0'}",
        *last_lines(stdout + stderr),
    )
