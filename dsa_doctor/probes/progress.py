"""What the probes of this process are doing just now, for whoever shows it."""

import contextlib
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_doing: list[str] = []


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Say that `what` is going on while this is entered; threads may do so side by side."""
    with _lock:
        _doing.append(what)
    try:
        yield
    finally:
        with _lock:
            _doing.remove(what)


def longest() -> str | None:
    """Return what has been going on for longest, or None where nothing is."""
    with _lock:
        return _doing[0] if _doing else None


__all__ = ["doing", "longest"]
