"""Values that options of a vLLM accept, read in its sources: nothing is imported, so a typo is told at once."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

from dsa_doctor.compat.sources import SourceTree

_CACHE_CONFIG = "vllm.config.cache"
_BACKEND_REGISTRY = "vllm.v1.attention.backends.registry"


def installed_sources() -> SourceTree | None:
    """Return the sources of the vLLM of this environment, without importing it; None without one."""
    try:
        spec = importlib.util.find_spec("vllm")
    except (ImportError, ValueError):
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return SourceTree(Path(folders[0]).parent) if folders else None


def kv_cache_dtypes(sources: SourceTree) -> tuple[str, ...]:
    """Return what --kv-cache-dtype accepts (`CacheDType` of vllm.config.cache); empty where it is not found."""
    for statement in _statements(sources.text(_CACHE_CONFIG)):
        if isinstance(statement, ast.Assign) and any(_is_name(one, "CacheDType") for one in statement.targets):
            return tuple(
                one.value
                for one in ast.walk(statement.value)
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            )
    return ()


def attention_backends(sources: SourceTree) -> tuple[str, ...]:
    """Return the names of AttentionBackendEnum, which --attention-backend accepts; empty where it is not found."""
    for statement in _statements(sources.text(_BACKEND_REGISTRY)):
        if isinstance(statement, ast.ClassDef) and statement.name == "AttentionBackendEnum":
            return tuple(
                target.id
                for member in statement.body
                if isinstance(member, ast.Assign)
                for target in member.targets
                if isinstance(target, ast.Name) and target.id.isupper()
            )
    return ()


@cache
def _statements(text: str | None) -> tuple[ast.stmt, ...]:
    try:
        return tuple(ast.parse(text).body) if text is not None else ()
    except (SyntaxError, ValueError, RecursionError):
        return ()


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
