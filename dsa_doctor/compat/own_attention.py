"""Reads which attention class a model family picks by itself on each compute capability, and what that class says."""

import ast
from functools import lru_cache, partial

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK, vllm_minimum
from dsa_doctor.compat.decisions import Situation, answer, outcomes
from dsa_doctor.compat.families import Family
from dsa_doctor.compat.model_classes import resolve_name
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.facts.schema import AttentionCandidate, AttentionPick, FamilyNeed, OwnAttention

_ENUM = "AttentionBackendEnum"
_PACKED = "use_fp8_ds_mla_layout"
"""Attribute of an attention class whose cache is packed: it takes no cache of plain bf16 rows."""

_DEEPEST = 6
"""Steps through base classes; the longest seen in vLLM has two."""


def own_attention(tree: SourceTree, family: Family) -> OwnAttention | None:
    """Return the family's picks; None where it asks the selector, or this vLLM has no such function."""
    if family.picker is None:
        return None
    module, _, name = family.picker.partition(":")
    classes = _Classes(tree)
    function = classes.function(module, name)
    if function is None:
        return None
    named = sorted(
        {
            node.attr
            for node in ast.walk(function)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == _ENUM
        }
    )
    picks = []
    for capability in sorted(one for one in SHARED_MEMORY_PER_BLOCK if one >= vllm_minimum()):
        for asked in (None, *named):
            situation = Situation((capability.major, capability.minor), asked)
            ends = outcomes(function, situation)
            picks.append(
                AttentionPick(
                    capability=str(capability),
                    asked=asked,
                    candidates=tuple(
                        classes.candidate(module, end.returns, situation) for end in ends if end.returns is not None
                    ),
                    refused=next((end.raises for end in ends if end.raises is not None), None),
                )
            )
    return OwnAttention(family=family.key, picked_by=family.picker.replace(":", "."), picks=tuple(picks))


def family_needs(tree: SourceTree, family: Family) -> tuple[FamilyNeed, ...]:
    """Return the family's needs that this vLLM's sources show, in their order."""
    found = []
    for need in family.needs:
        module, _, name = need.place.partition(":")
        if tree.shows(module, name, need.expects):
            place = f"{module}.{name}" if name else module
            found.append(FamilyNeed(family=family.key, layer=need.layer, place=place, needs=need.needs, what=need.what))
    return tuple(found)


class _Classes:
    """Functions and classes of vLLM's sources, looked up through imports and bases."""

    def __init__(self, tree: SourceTree) -> None:
        self._tree = tree
        self._block = lru_cache(maxsize=None)(tree.block)
        self._resolve = lru_cache(maxsize=None)(partial(resolve_name, tree))

    def function(self, module: str, name: str) -> ast.FunctionDef | None:
        """Return a top-level function."""
        found = self._block(module, name)
        return found if isinstance(found, ast.FunctionDef) else None

    def candidate(self, module: str, name: str, situation: Situation) -> AttentionCandidate:
        """Return an attention class with its backend's name, and what the backend says of the capability."""
        where = self._resolve(module, name)
        backend = self._attribute(*where, "backend_cls")
        supported = label = None
        dtypes: tuple[str, ...] = ()
        if backend is not None:
            home, held = backend
            at = self._resolve(home, ast.unparse(held))
            method = self._method(*at, "supports_compute_capability")
            supported = answer(method, situation) if method is not None else None
            named = self._method(*at, "get_name")
            label = _constant(named) if named is not None else None
            listed = self._attribute(*at, "supported_kv_cache_dtypes")
            dtypes = _texts(listed[1]) if listed is not None else ()
            packed = self._attribute(*where, _PACKED)
            if packed is not None and isinstance(packed[1], ast.Constant) and packed[1].value is True:
                dtypes = tuple(one for one in dtypes if one == "auto" or "fp8" in one or one.endswith("_ds_mla"))
        return AttentionCandidate(
            attention_class=".".join(where), backend=label, supported=supported, kv_cache_dtypes=dtypes
        )

    def _class(self, module: str, name: str) -> ast.ClassDef | None:
        found = self._block(module, name)
        return found if isinstance(found, ast.ClassDef) else None

    def _attribute(self, module: str, name: str, attribute: str, depth: int = 0) -> tuple[str, ast.expr] | None:
        """Return the module in which a class, or the nearest base, assigns the attribute, and what it assigns."""
        found = self._class(module, name)
        if found is None or depth > _DEEPEST:
            return None
        for statement in found.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                targets = [statement.target]
            for target in targets:
                value = getattr(statement, "value", None)
                if isinstance(target, ast.Name) and target.id == attribute and isinstance(value, ast.expr):
                    return module, value
        for base in found.bases:
            where = self._resolve(module, ast.unparse(base))
            if (inherited := self._attribute(*where, attribute, depth + 1)) is not None:
                return inherited
        return None

    def _method(self, module: str, name: str, method: str, depth: int = 0) -> ast.FunctionDef | None:
        found = self._class(module, name)
        if found is None or depth > _DEEPEST:
            return None
        own = (one for one in found.body if isinstance(one, ast.FunctionDef) and one.name == method)
        if (defined := next(own, None)) is not None:
            return defined
        for base in found.bases:
            where = self._resolve(module, ast.unparse(base).partition("[")[0])
            if (inherited := self._method(*where, method, depth + 1)) is not None:
                return inherited
        return None


def _texts(node: ast.expr) -> tuple[str, ...]:
    elements = node.elts if isinstance(node, ast.List | ast.Tuple) else []
    return tuple(str(one.value) for one in elements if isinstance(one, ast.Constant))


def _constant(function: ast.FunctionDef) -> str | None:
    for statement in function.body:
        if isinstance(statement, ast.Return) and isinstance(statement.value, ast.Constant):
            return str(statement.value.value)
    return None
