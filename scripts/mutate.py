"""Sample mutants of a package and say which ones its tests let live.

    python scripts/mutate.py dsa_doctor/resolver tests/dsa_doctor/resolver --count 40 --seed 20240

A mutant is one change of one file: a comparison turned or moved by one, `and` for `or`, a condition negated, a number
moved by one, a returned value dropped. It is written into a copy of the package, the tests run once against the copy,
and a mutant that no test fails on lives. Texts are left alone. The same seed samples the same mutants of the same
sources. What else is given goes to pytest: -m 'not slow', -k NAME. Exit status: 0 where the share of killed mutants
reaches --at-least.
"""

import argparse
import ast
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", ".*_cache", ".hypothesis", "build", "dist", "site")


@dataclass(frozen=True)
class Mutant:
    """One change: the file and its text, the node as its place in `ast.walk`, which of its changes, and in words."""

    file: Path
    text: str
    line: int
    node: int
    number: int
    change: str

    def source(self) -> str:
        """Return the whole mutated file."""
        tree = ast.parse(self.text)
        node = next(one for place, one in enumerate(ast.walk(tree)) if place == self.node)
        _, mutate = list(_changes(node))[self.number]
        mutate(node)
        return ast.unparse(ast.fix_missing_locations(tree))


def mutants_of(file: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    text = file.read_text(encoding="utf-8")
    for place, node in enumerate(ast.walk(ast.parse(text))):
        for number, (change, _) in enumerate(_changes(node)):
            yield Mutant(file, text, getattr(node, "lineno", 0), place, number, change)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    """Yield what can be changed at a node: words, and the function that changes its copy."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        other = _COMPARISONS[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} to {other.__name__}", lambda one: _set(one, "ops", [other(), *one.ops[1:]])
    if isinstance(node, ast.BoolOp):
        other_bool = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} to {other_bool.__name__}", lambda one: _set(one, "op", other_bool())
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "condition negated", lambda one: _set(one, "test", ast.UnaryOp(ast.Not(), one.test))
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
        swapped = _ARITHMETIC[type(node.op)]
        yield f"{type(node.op).__name__} to {swapped.__name__}", lambda one: _set(one, "op", swapped())
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool):
        yield f"{node.value} to {node.value + 1}", lambda one: _set(one, "value", one.value + 1)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} to {not node.value}", lambda one: _set(one, "value", not one.value)
    if isinstance(node, ast.Return) and node.value is not None:
        yield "returns None", lambda one: _set(one, "value", ast.Constant(None))


def _set(node: ast.AST, name: str, value: object) -> None:
    setattr(node, name, value)


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(one, ast.JoinedStr) or (isinstance(one, ast.Constant) and isinstance(one.value, str))
               for one in ast.walk(node))  # fmt: skip


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """Make a copy of the sources, of links."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT, folder, copy_function=_link, ignore=_LEFT_OUT, dirs_exist_ok=True)
        yield Path(folder)


def lives(mutant: Mutant, folder: Path, tests: list[str], seconds: float) -> bool:
    """Run the tests against a copy of the sources with the mutant in it; whether all of them pass in time."""
    target = folder / mutant.file.relative_to(ROOT)
    target.unlink()  # a link to the original
    target.write_text(mutant.source(), encoding="utf-8")
    try:
        return passed(folder, tests, seconds)[0]
    finally:
        target.write_text(mutant.text, encoding="utf-8")


def passed(folder: Path, tests: list[str], seconds: float) -> tuple[bool, str]:
    """Run the tests against a copy of the sources; whether all of them pass in time, and the end of what they wrote."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((os.fspath(folder), os.fspath(folder / "kernels"))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, f"not done within {seconds:g} s"
    return done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def main() -> int:
    """Sample, run, and print what lives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="file or folder to mutate")
    parser.add_argument("tests", nargs="+", help="paths of tests")
    parser.add_argument("--count", type=int, default=40, help="mutants to sample")
    parser.add_argument("--seed", type=int, default=20240)
    parser.add_argument("--seconds", type=float, default=300.0, help="of one run of the tests; more counts as killed")
    parser.add_argument("--at-least", type=float, default=0.9, help="share of killed mutants that is wanted")
    options, for_pytest = parser.parse_known_args()
    tests = [*options.tests, *for_pytest]
    package = options.package.resolve()
    files = sorted(package.rglob("*.py")) if package.is_dir() else [package]
    every = [mutant for file in files for mutant in mutants_of(file)]
    if not every:
        print(f"{options.package}: nothing to mutate")
        return 2
    sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
    alive = 0
    with copied() as folder:
        sound, said = passed(folder, tests, options.seconds)
        if not sound:
            print(f"the tests do not pass without any mutant, so nothing can be said:\n{said}")
            return 2
        for mutant in sorted(sample, key=lambda one: (one.file, one.line)):
            if lives(mutant, folder, tests, options.seconds):
                alive += 1
                print(f"lives: {mutant.file.relative_to(ROOT)}:{mutant.line}: {mutant.change}", flush=True)
    share = 1 - alive / len(sample)
    print(f"{len(sample) - alive} of {len(sample)} mutants killed ({share:.0%}), of {len(every)} that there are")
    return int(share < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
