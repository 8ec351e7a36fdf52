from pathlib import Path

import pytest

from dsa_doctor.compat.sources import SourceTree

SOURCE = """
from package.other import (
    alpha,  # a comment, with a comma
    beta,
)
from package.other import gamma
TABLE: dict[str, int] = {}
PLAIN = 1

@decorated("def fake(")
def function(
    first: dict[str, tuple[int, ...]],  # a colon: and a paren )
    second: str = "a):",
    *rest: int,
    third: int = 3,
    **others: str,
) -> dict[str, int]:
    return call(first)

class Thing(Base):
    switch = True

    async def method(self, value=lambda: 1): return value

def after(): pass
"""


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(SOURCE)
    return SourceTree(tmp_path)


def test_parameters(tree: SourceTree) -> None:
    assert tree.parameters("package", "function") == ("first", "second", "*rest", "*,third", "**others")
    assert tree.parameters("package", "Thing.method") == ("self", "value")
    assert tree.parameters("package", "after") == ()
    assert tree.parameters("package", "method") is None
    assert tree.parameters("package", "Thing.after") is None
    assert tree.parameters("package", "Nothing.method") is None
    assert tree.parameters("absent", "function") is None


def test_imports(tree: SourceTree) -> None:
    assert all(tree.imports("package", "package.other", name) for name in ("alpha", "beta", "gamma"))
    assert not tree.imports("package", "package.other", "delta")
    assert not tree.imports("package", "package", "alpha")
    assert not tree.imports("absent", "package.other", "alpha")


def test_globals_classes_and_bodies(tree: SourceTree) -> None:
    assert tree.has_global("package", "TABLE")
    assert tree.has_global("package", "PLAIN")
    assert not tree.has_global("package", "switch")
    assert tree.has_class("package", "Thing")
    assert not tree.has_class("package", "Base")
    assert tree.mentions("package", "Thing", "switch = True")
    assert not tree.mentions("package", "Thing", "return call(first)")
    assert tree.mentions("package", "function", "return call(first)")
