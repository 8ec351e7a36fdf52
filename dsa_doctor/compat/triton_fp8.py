"""Finds the Triton kernels on the DSA path that need float8e4nv, by reading vLLM's sources.

Triton refuses the type below compute capability 8.9, in a cast as in a mere pointer argument. A kernel counts where its
text (or that of a jit function it calls) names the type, or where its launcher hands it a tensor that was made with
vLLM's fp8 dtype.
"""

import ast
import re
from pathlib import Path

from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.facts.schema import TritonFp8Kernel

_FP8_TENSOR = ("float8_e4m3fn", "fp8_dtype()", "_FP8_DTYPE")
_FP8_TYPE = "float8e4nv"
CAPABILITY_TEST = re.compile(
    r"\b(?:has_device_capability|is_device_capability(?:_family)?|get_device_capability|supports_fp8)\("
)
"""How vLLM's sources ask for the device's capability."""

_INDEXER = "vllm.model_executor.layers.sparse_attn_indexer"
_PACKING = "vllm.v1.attention.ops.common"
_GENERIC = "vllm.model_executor.models.deepseek_v2"
_GENERIC_MTP = "vllm.model_executor.models.deepseek_mtp"
_OTHER_PLATFORMS = {"amd", "xpu", "cpu"}


def triton_fp8_kernels(tree: SourceTree, model_classes: dict[str, str]) -> tuple[TritonFp8Kernel, ...]:
    """Return the kernels that need float8e4nv on the paths of the given model classes.

    Args:
        tree: vLLM's sources.
        model_classes: architecture to "module:Class", as in the fingerprint.
    """
    found: dict[tuple[str, str], tuple[bool, set[str]]] = {}
    read: dict[str, list[tuple[str, str, bool]]] = {}
    for architecture, model_class in model_classes.items():
        for module in _modules_on_path(tree, model_class.partition(":")[0]):
            if module not in read:
                read[module] = _kernels_of(tree, module)
            for kernel, file, guarded in read[module]:
                found.setdefault((kernel, file), (guarded, set()))[1].add(architecture)
    return tuple(
        TritonFp8Kernel(kernel=kernel, file=file, guarded=guarded, architectures=tuple(sorted(architectures)))
        for (kernel, file), (guarded, architectures) in sorted(found.items())
    )


def _modules_on_path(tree: SourceTree, module: str) -> tuple[str, ...]:
    if module in (_GENERIC, _GENERIC_MTP):
        return (_INDEXER, _PACKING)  # the indexer's own kernels, and the one that packs its query
    parts = module.split(".")
    if parts[:2] != ["vllm", "models"]:
        return (module,)
    folder = tree.root.joinpath(*parts[:3])
    own = tuple(
        ".".join(file.relative_to(tree.root).with_suffix("").parts)
        for file in sorted(folder.rglob("*.py"))
        if not _OTHER_PLATFORMS & set(file.relative_to(folder).parts)
    )
    return (*own, _PACKING)


def _kernels_of(tree: SourceTree, module: str) -> list[tuple[str, str, bool]]:
    text = tree.text(module)
    if text is None:
        return []
    file = _file_of(tree, module)
    if module == _PACKING:
        packer = re.search(r"^(?:def|class) (_pack_seq_kernel|PackSeqTritonKernel)\(", text, re.MULTILINE)
        return [(packer.group(1), file, False)] if packer and _packs_fp8(tree) else []
    if "triton.jit" not in text or not any(mark in text for mark in (*_FP8_TENSOR, _FP8_TYPE)):
        return []
    parsed = ast.parse(text)
    functions = {node.name: node for node in parsed.body if isinstance(node, ast.FunctionDef)}
    kernels = {name for name, node in functions.items() if any("jit" in ast.unparse(d) for d in node.decorator_list)}
    lines = text.splitlines()
    bodies = {name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for name, node in functions.items()}
    named = _names_fp8({name: bodies[name] for name in kernels})
    result = []
    for name, node in functions.items():
        if name in kernels:
            continue
        guarded = CAPABILITY_TEST.search(bodies[name]) is not None or _gate_tests_capability(tree, name)
        handled = _fp8_variables(node)
        for kernel, arguments in _launches(node):
            if kernel in kernels and (kernel in named or arguments & handled):
                result.append((kernel, file, guarded))
    return result


def _file_of(tree: SourceTree, module: str) -> str:
    path = Path(*module.split("."))
    is_package = (tree.root / path / "__init__.py").is_file()
    return (path / "__init__.py" if is_package else path.with_suffix(".py")).as_posix()


def _names_fp8(bodies: dict[str, str]) -> set[str]:
    """Return the jit functions, given by name and text, that name the type themselves or call one that does."""
    named = {name for name, body in bodies.items() if _FP8_TYPE in body}
    while True:
        more = {
            name
            for name, body in bodies.items()
            if name not in named and any(re.search(rf"\b{callee}\(", body) for callee in named)
        }
        if not more:
            return named
        named |= more


def _fp8_variables(function: ast.FunctionDef) -> set[str]:
    """Return the local names that are assigned an expression with an fp8 dtype in it."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(mark in ast.unparse(node.value) for mark in _FP8_TENSOR):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _launches(function: ast.FunctionDef) -> list[tuple[str, set[str]]]:
    """Return (kernel, names among its arguments) for each `kernel[grid](...)`."""
    launches = []
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Subscript)
            and isinstance(node.func.value, ast.Name)
        ):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            launches.append((node.func.value.id, {value.id for value in values if isinstance(value, ast.Name)}))
    return launches


def _gate_tests_capability(tree: SourceTree, launcher: str) -> bool:
    """Whether the model's switch for the fused indexer query asks for the capability."""
    if launcher != "fused_indexer_q_rope_quant":
        return False
    text = tree.text(_GENERIC) or ""
    gate = re.search(r"self\.use_fused_indexer_q = \((.*?)\n        \)", text, re.DOTALL)
    return gate is not None and CAPABILITY_TEST.search(gate.group(1)) is not None


def _packs_fp8(tree: SourceTree) -> bool:
    """Whether the indexer packs its fp8 query by the kernel that takes the tensor's own dtype."""
    return re.search(r"= pack_seq_triton\(\s*q_quant\[", tree.text(_INDEXER) or "") is not None


__all__ = ["CAPABILITY_TEST", "triton_fp8_kernels"]
