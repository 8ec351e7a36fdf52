"""What a test must leave as it found it, as the worker runs others after it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def path_left_as_it_was() -> Iterator[None]:
    """Fail where sys.path is another afterwards, and put it back: a folder left there shadows modules elsewhere."""
    before = list(sys.path)
    yield
    after, sys.path[:] = list(sys.path), before
    assert after == before, f"sys.path was left changed: {sorted(set(after) ^ set(before)) or 'in another order'}"


@contextmanager
def path_put_back() -> Iterator[None]:
    """Put sys.path back after an import that appends to it, as those of cutlass's DSL and of setuptools do."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
