"""Reads from vLLM's sources which classes it chooses on CUDA: model classes and sparse MLA backends."""

import ast
import re

from dsa_doctor.compat.families import FAMILIES
from dsa_doctor.compat.sources import SourceTree

MODEL_REGISTRY = "vllm.model_executor.models.registry"
BACKEND_REGISTRY = "vllm.v1.attention.backends.registry"
DSA_ARCHITECTURES = tuple(sorted(one for family in FAMILIES for one in (*family.architectures, *family.drafts)))
"""Architectures, as config.json and the speculative configuration name them, whose class is of interest."""


def registered(tree: SourceTree) -> dict[str, str]:
    """Return every architecture in vLLM's own registry, and the "module:Class" that stands there for it.

    Raises:
        SyntaxError: the registry cannot be parsed.
    """
    found = {}
    for node in ast.walk(ast.parse(tree.text(MODEL_REGISTRY) or "")):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and isinstance(value, ast.Tuple):
                parts = [str(one.value) for one in value.elts if isinstance(one, ast.Constant)]
                if len(parts) == 2:
                    module = parts[0]
                    whole = module if "." in module else f"vllm.model_executor.models.{module}"
                    found[key.value] = f"{whole}:{parts[1]}"
    return found


def model_classes(tree: SourceTree) -> dict[str, str]:
    """Return architecture to "module:Class" as vLLM's registry and its dispatching packages choose on CUDA.

    An architecture that this vLLM does not know is left out.
    """
    known = registered(tree)
    return {
        architecture: ":".join(resolve_name(tree, *known[architecture].split(":")))
        for architecture in DSA_ARCHITECTURES
        if architecture in known
    }


def resolve_name(tree: SourceTree, module: str, name: str) -> tuple[str, str]:
    """Follow re-exports of `name` through packages that dispatch on the platform, to where it is defined."""
    for _ in range(8):
        text = tree.text(module)
        if text is None or re.search(rf"^class {name}\b", text, re.MULTILINE):
            break
        found = _import_on_cuda(tree.statements(module), name)
        if found is None:
            break
        statement, original = found
        package = module.split(".") if _is_package(tree, module) else module.split(".")[:-1]
        base = package[: len(package) - statement.level + 1] if statement.level else []
        module, name = ".".join([*base, *([statement.module] if statement.module else [])]), original
    return module, name


def _is_package(tree: SourceTree, module: str) -> bool:
    return tree.root.joinpath(*module.split("."), "__init__.py").is_file()


def _import_on_cuda(statements: list[ast.stmt], name: str) -> tuple[ast.ImportFrom, str] | None:
    """Return the import that binds `name` when the platform is CUDA, and the name it has there."""
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return statement, alias.name
        elif isinstance(statement, ast.If):
            holds = _holds_on_cuda(statement.test)
            branches = ([statement.body] if holds is not False else []) + ([statement.orelse] if not holds else [])
            for branch in branches:
                if found := _import_on_cuda(branch, name):
                    return found
    return None


def _holds_on_cuda(test: ast.expr) -> bool | None:
    """Evaluate a platform test for CUDA; None where it asks for anything else."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _holds_on_cuda(test.operand)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        values = [_holds_on_cuda(value) for value in test.values]
        decisive = isinstance(test.op, ast.Or)
        return decisive if decisive in values else None if None in values else not decisive
    asked = re.fullmatch(r"current_platform\.is_(\w+)\(\)", ast.unparse(test))
    if asked is None or asked.group(1).startswith("device"):
        return None
    return asked.group(1) in ("cuda", "cuda_alike")


def backend_classes(tree: SourceTree) -> dict[str, str]:
    """Return the members of vLLM's attention backend registry: name to the dotted path of its class."""
    text = tree.text(BACKEND_REGISTRY) or ""
    body = re.search(r"^class AttentionBackendEnum\b.*?(?=^class |\Z)", text, re.MULTILINE | re.DOTALL)
    if body is None:
        return {}
    members = re.finditer(r'^    ([A-Z][A-Z0-9_]*) = \(?\s*"([\w.]+)"((?:\s*"[\w.]+")*)', body.group(0), re.MULTILINE)
    return {name: first + "".join(re.findall(r'"([\w.]+)"', rest)) for name, first, rest in map(_groups, members)}


def _groups(match: re.Match[str]) -> tuple[str, str, str]:
    return match.group(1), match.group(2), match.group(3)


def sparse_mla_backends(tree: SourceTree) -> tuple[str, ...]:
    """Return the registered backends that say of themselves that they are MLA and sparse, in the registry's order."""
    return tuple(
        name
        for name, path in backend_classes(tree).items()
        if _answers_true(tree, path, "is_mla") and _answers_true(tree, path, "is_sparse")
    )


def _answers_true(tree: SourceTree, path: str, method: str, depth: int = 0) -> bool:
    """Whether a class, or the nearest base that defines the method, returns True from it."""
    module, _, name = path.rpartition(".")
    text = tree.text(module)
    if text is None or depth > 6:
        return False
    header = re.search(rf"^class {re.escape(name)}\b(?:\(([^)]*)\))?:", text, re.MULTILINE)
    if header is None:
        imported = re.search(rf"^from ([\w.]+) import (?:\([^)]*\b{name}\b|[^(\n]*\b{name}\b)", text, re.MULTILINE)
        return imported is not None and _answers_true(tree, f"{imported.group(1)}.{name}", method, depth + 1)
    end = re.search(r"^\S", text[header.end() :], re.MULTILINE)
    body = text[header.end() : header.end() + end.start()] if end else text[header.end() :]
    answer = re.search(rf"^    def {method}\([^)]*\)[^:]*:\n(?:.*\n)*?        return (\w+)", body, re.MULTILINE)
    if answer is not None:
        return answer.group(1) == "True"
    bases = [base.strip().partition("[")[0] for base in (header.group(1) or "").split(",")]
    return any(_answers_true(tree, f"{module}.{base}", method, depth + 1) for base in bases if base.isidentifier())


__all__ = [
    "BACKEND_REGISTRY",
    "DSA_ARCHITECTURES",
    "MODEL_REGISTRY",
    "backend_classes",
    "model_classes",
    "registered",
    "resolve_name",
    "sparse_mla_backends",
]
