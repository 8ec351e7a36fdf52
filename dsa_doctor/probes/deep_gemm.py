"""DeepGEMM: which copies are installed, and whether each can be imported, tried in a subprocess.

Whether an architecture supports it is another question, which importing does not answer.
"""

import ast
import re
from pathlib import Path
from typing import Any, Literal

from dsa_doctor.binaries import ElfError, SharedObject
from dsa_doctor.cache.trace import Trace
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import DeepGemm, DeepGemmCopy
from dsa_doctor.probes.child import ask
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.libraries import LibraryIndex, link
from dsa_doctor.processes.child import ChildPool
from dsa_doctor.redaction import redact

_TIMEOUT = 120.0
_CUDA_LIBRARY = re.compile(
    r"lib(?:cuda|cudart|c10_cuda|torch_cuda\w*|cublas\w*|cudnn\w*|nvrtc\S*|nccl|cusparse\w*|cusolver\w*|nvJitLink)"
    r"[\w.+-]*: cannot open shared object file"
)
_NO_CUDA = re.compile(
    r"Found no NVIDIA driver|not compiled with CUDA|CUDA driver version is insufficient|No CUDA GPUs"
    r"|No module named 'torch'"
)
_NO_TOOLKIT = re.compile(r"CUDA_HOME|CUDA_PATH|find_cuda_home|find_cuda_toolkit|nvcc", re.IGNORECASE)

Failure = Literal["no_cuda_toolkit", "no_driver_or_cuda_torch", "broken"]


def probe(environment: Environment, trace: Trace | None = None) -> Observation[DeepGemm]:
    """Return the copies of DeepGEMM in the environment, in vLLM's order of preference; absent where there is none.

    Args:
        environment: where they are looked for, and the interpreter that tries to import them.
        trace: filled with what the imports loaded.
    """
    trace = trace if trace is not None else Trace()
    candidates: list[tuple[Literal["external", "vendored"], Path | None]] = [
        ("external", environment.package_dir("deep_gemm")),
        ("vendored", environment.package_dir("vllm.third_party.deep_gemm")),
    ]
    installed = [(source, folder) for source, folder in candidates if folder and (folder / "__init__.py").is_file()]
    if not installed:
        return Observation[DeepGemm].absent("neither the package deep_gemm nor a copy of it in vLLM is installed")
    with ChildPool(max_workers=len(installed)) as pool:
        copies = tuple(pool.map(lambda copy: _examine(environment, copy[0], copy[1], trace), installed))
    return Observation[DeepGemm].ok(DeepGemm(copies=copies))


def _examine(
    environment: Environment, source: Literal["external", "vendored"], folder: Path, trace: Trace
) -> DeepGemmCopy:
    importable, failure = _try_import(environment, source, folder, trace)
    return DeepGemmCopy(source=source, version=_version(folder), importable=importable, failure=failure)


def _version(folder: Path) -> str | None:
    """Return the `__version__` that the package's source assigns, without running it."""
    tree = _syntax_tree(folder / "__init__.py")
    for node in tree.body if tree else []:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if any(isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets):
            return str(node.value.value)
    return None


def _try_import(
    environment: Environment, source: Literal["external", "vendored"], folder: Path, trace: Trace
) -> tuple[Observation[bool], Failure | None]:
    request: dict[str, Any] = {"module": "deep_gemm", "parents": {}}
    if source == "vendored":
        third_party = folder.parent
        request = {
            "module": "vllm.third_party.deep_gemm",
            "parents": {"vllm": str(third_party.parent), "vllm.third_party": str(third_party)},
        }
    request["probably_missing"] = _missing_libraries(environment, folder, trace)
    result = ask(environment, "deep_gemm_import.py", request, timeout=_TIMEOUT, trace=trace)
    if result.status != "answered":
        return Observation[bool].unknown(result.cause, evidence=result.evidence, seconds=result.seconds), None
    if result.answer.get("importable") is True:
        return Observation[bool].ok(True, seconds=result.seconds), None
    raised = result.answer.get("raised")
    if result.answer.get("importable") is not False or not isinstance(raised, list) or not raised:
        return Observation[bool].unknown(
            "the deep_gemm_import probe gave no readable answer", seconds=result.seconds
        ), None
    lines = [str(line) for line in raised]
    shown = tuple(redact(environment.shorten(line))[:300] for line in lines)
    return Observation[bool].ok(False, evidence=shown, seconds=result.seconds), classify_failure(lines)


def _missing_libraries(environment: Environment, folder: Path, trace: Trace) -> list[str]:
    """Return the libraries that the compiled part needs and that were not found; the child asks the loader for them.

    Importing torch first, as the package does, costs seconds that end in the loader's refusal anyway. Only for a
    package that imports its compiled part at its top level, outside any try, does that refusal settle the matter.
    """
    tree = _syntax_tree(folder / "__init__.py")
    unguarded = any(
        isinstance(node, ast.ImportFrom) and node.level == 1 and (node.module == "_C" or node.names[0].name == "_C")
        for node in (tree.body if tree else [])
    )
    extension = next(iter(sorted(folder.glob("_C*.so"))), None)
    if not unguarded or extension is None:
        return []
    index = LibraryIndex.of(environment)
    try:
        return list(link(SharedObject(extension), index).missing_libraries)
    except (ElfError, OSError):  # the import itself then says what ails the file
        return []
    finally:
        trace.files.update(index.looked_at)


def _syntax_tree(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None


def classify_failure(raised: list[str]) -> Failure:
    """Return what an import failed for: a missing CUDA toolkit, a missing driver or CUDA build of torch, or neither.

    Args:
        raised: lines "Type: message (in function)" of the exception and its causes.
    """
    text = "\n".join(raised)
    if _CUDA_LIBRARY.search(text) or _NO_CUDA.search(text):
        return "no_driver_or_cuda_torch"
    return "no_cuda_toolkit" if _NO_TOOLKIT.search(text) else "broken"
