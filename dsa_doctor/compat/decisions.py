"""Evaluates what vLLM's sources decide from the compute capability and the backend asked for; nothing is executed.

Whatever depends on more than these two stays open, and then every outcome that it leaves is returned.
"""

import ast
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

_ASKED = "backend"
_ENUM = "AttentionBackendEnum"
_CAPABILITY_NAMES = {"capability", "device_capability"}


@dataclass(frozen=True)
class Situation:
    """What a decision is evaluated for.

    Attributes:
        capability: major and minor.
        backend: name of the attention backend asked for; None where none is.
    """

    capability: tuple[int, int]
    backend: str | None = None


@dataclass(frozen=True)
class Outcome:
    """One way in which a function ends: `returns` is the source of what it returns, or None where it raises."""

    returns: str | None
    raises: str | None = None


def outcomes(function: ast.FunctionDef, situation: Situation) -> tuple[Outcome, ...]:
    """Return how the function may end, in the order of its sources; one entry where the situation decides."""
    found, _ = _walk(function.body, situation)
    return tuple(dict.fromkeys(found))


def answer(function: ast.FunctionDef, situation: Situation) -> bool | None:
    """Return the truth that a function returns, e.g. `supports_compute_capability`; None where it stays open."""
    ends = outcomes(function, situation)
    if len(ends) != 1 or ends[0].returns is None:
        return None
    return holds(ast.parse(ends[0].returns, mode="eval").body, situation)


def holds(test: ast.expr, situation: Situation) -> bool | None:
    """Return the truth of an expression, or None where it depends on more than the situation."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = holds(test.operand, situation)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        values = [holds(value, situation) for value in test.values]
        decisive = isinstance(test.op, ast.Or)
        return decisive if decisive in values else None if None in values else not decisive
    if isinstance(test, ast.Call):
        return _platform_says(test, situation)
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _compare(test.left, test.ops[0], test.comparators[0], situation)
    return None


def _walk(statements: list[ast.stmt], situation: Situation) -> tuple[list[Outcome], bool]:
    """Return the ends that are reached, and whether what follows the statements is reached too."""
    found: list[Outcome] = []
    for statement in statements:
        if isinstance(statement, ast.Return):
            return [*found, Outcome(ast.unparse(statement.value) if statement.value else "None")], False
        if isinstance(statement, ast.Raise):
            return [*found, Outcome(None, _message(statement))], False
        if isinstance(statement, ast.If):
            truth = holds(statement.test, situation)
            branches = ([statement.body] if truth is not False else []) + ([statement.orelse] if not truth else [])
            goes_on = False
            for branch in branches:
                ends, falls_through = _walk(branch, situation)
                found += ends
                goes_on = goes_on or falls_through
            if not goes_on:
                return found, False
    return found, True


def _message(statement: ast.Raise) -> str:
    arguments = statement.exc.args if isinstance(statement.exc, ast.Call) else []
    texts = [
        part.value
        for argument in arguments
        for part in ast.walk(argument)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return "".join(texts).strip()


def _value(node: ast.expr, situation: Situation) -> Any:
    """Return the value of an operand; Ellipsis where it is not known."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [_value(one, situation) for one in node.elts]
    if isinstance(node, ast.Name):
        if node.id == _ASKED:
            return situation.backend
        return situation.capability if node.id in _CAPABILITY_NAMES else ...
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == _ENUM:
            return node.attr
        whole = _value(node.value, situation)
        if whole == situation.capability and node.attr in {"major", "minor"}:
            return whole[0] if node.attr == "major" else whole[1]
        # Parallel sizes are one unless the user asks for more, which is another question.
        return 1 if node.attr.endswith("_parallel_size") else ...
    return ...


def _compare(left: ast.expr, operator: ast.cmpop, right: ast.expr, situation: Situation) -> bool | None:
    first, second = _value(left, situation), _value(right, situation)
    if first is ... or second is ... or (isinstance(second, list) and ... in second):
        return None
    if isinstance(second, list):
        pairs = [tuple(one) if isinstance(one, list) else one for one in second]
        second = pairs if isinstance(operator, ast.In | ast.NotIn) else tuple(pairs)
    if isinstance(operator, ast.Is | ast.Eq):
        return bool(first == second)
    if isinstance(operator, ast.IsNot | ast.NotEq):
        return bool(first != second)
    if isinstance(operator, ast.In) and isinstance(second, list):
        return first in second
    if isinstance(operator, ast.NotIn) and isinstance(second, list):
        return first not in second
    return _ordered(operator, first, second) if type(first) is type(second) else None


def _ordered(operator: ast.cmpop, first: Any, second: Any) -> bool | None:
    if not isinstance(first, int | tuple):
        return None
    orders = {ast.Gt: gt, ast.GtE: ge, ast.Lt: lt, ast.LtE: le}
    compare = orders.get(type(operator))
    return None if compare is None else bool(compare(first, second))


def _platform_says(call: ast.Call, situation: Situation) -> bool | None:
    """Answer vLLM's platform for a capability: 90 and (9, 0) are the same; a family is a major version."""
    asked = ast.unparse(call.func)
    if asked == "current_platform.is_cuda":
        return True
    wanted = _value(call.args[0], situation) if call.args else ...
    if isinstance(wanted, list):
        wanted = tuple(wanted)
    elif isinstance(wanted, int):
        wanted = divmod(wanted, 10)
    if not isinstance(wanted, tuple) or len(wanted) != 2:
        return None
    return {
        "current_platform.is_device_capability": situation.capability == wanted,
        "current_platform.has_device_capability": situation.capability >= wanted,
        "current_platform.is_device_capability_family": situation.capability[0] == wanted[0],
    }.get(asked)
