"""Imports another project's test files as they are, and takes single cases out of them.

A file is never edited. A test that loops over literal parameters is compiled again in memory for one case, with each of
those loops narrowed to one value.
"""

import ast
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

STAND_INS = Path(__file__).parent / "standins"


def use_folders(*folders: Path) -> None:
    """Let imports find our stand-in packages first, then the folders of the other projects."""
    wanted = [str(STAND_INS), *(str(folder.resolve()) for folder in folders)]
    sys.path[:] = wanted + [entry for entry in sys.path if entry not in wanted]
    importlib.invalidate_caches()


def values_of_main_block(module: ModuleType, wanted: str) -> Any:
    """Run the assignments under `if __name__ == "__main__"` up to that of `wanted`, and return its value."""
    path = Path(str(module.__file__))
    for node in ast.parse(path.read_text()).body:
        if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            continue
        scope = dict(vars(module))
        for statement in (one for one in node.body if isinstance(one, ast.Assign)):
            exec(compile(ast.Module([statement], []), str(path), "exec"), scope)
            if wanted in map(ast.unparse, statement.targets):
                return scope[wanted]
    raise LookupError(f"{path.name}: no assignment of {wanted} under __main__")


def literal_loops(function: ast.FunctionDef) -> list[ast.For]:
    """The nested loops over literals at the top of a test, outermost first."""
    found: list[ast.For] = []
    body: list[ast.stmt] = function.body
    while True:
        loops = [node for node in body if isinstance(node, ast.For) and _literal(node.iter) is not None]
        if len(loops) != 1:
            return found
        found.append(loops[0])
        body = loops[0].body


def _literal(node: ast.expr) -> list[Any] | None:
    try:
        return list(ast.literal_eval(node))
    except (ValueError, TypeError):
        return None


def single_cases(module: ModuleType, name: str) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """Every case of the test function `name`: the values of its loops, and a function that runs that case alone."""
    path = Path(str(module.__file__))
    tree = ast.parse(path.read_text())
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    loops = literal_loops(function)
    if not loops:
        raise LookupError(f"{path.name}: {name} has no loop over literals")
    targets = [ast.unparse(loop.target) for loop in loops]
    choices = [_literal(loop.iter) or [] for loop in loops]
    for values in itertools.product(*choices):
        yield dict(zip(targets, values, strict=True)), _narrowed(module, path, function, loops, values)


def _narrowed(
    module: ModuleType, path: Path, function: ast.FunctionDef, loops: list[ast.For], values: tuple[Any, ...]
) -> Callable[[], None]:
    def run() -> None:
        before = [loop.iter for loop in loops]
        for loop, value in zip(loops, values, strict=True):
            loop.iter = ast.copy_location(ast.parse(repr((value,)), mode="eval").body, loop.iter)
        try:
            code = compile(ast.fix_missing_locations(ast.Module([function], [])), str(path), "exec")
        finally:
            for loop, literal in zip(loops, before, strict=True):
                loop.iter = literal
        scope = dict(vars(module))
        exec(code, scope)
        scope[function.name]()

    return run
