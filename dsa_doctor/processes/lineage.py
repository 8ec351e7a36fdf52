"""Parents and children among processes. Standard library only, and little of it: the stand-alone scripts import it."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends; nothing happens where the system cannot."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send a signal to this process when `parent`, its parent, ends; end at once if it has already.

    To be called after a fork and before the exec: the request survives the exec, and is not inherited.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended between the fork and the request
        os._exit(128 + number)


def descendants(root: int) -> list[int]:
    """Return the living descendants of a process, zombies left out; none where the system has no /proc."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123 - pathlib costs more than all else here
                state, parent = stream.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):  # gone meanwhile
            continue
        if state not in b"ZX":
            children.setdefault(int(parent), []).append(pid)
    found, queue = [], [root]
    while queue:
        queue += (below := children.get(queue.pop(), []))
        found += below
    return found


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - likewise
    except OSError:
        return []


def _prctl(option: int, value: int) -> None:
    """Call prctl(2), which only Linux has."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if call is not None:
        call(option, value, 0, 0, 0)
