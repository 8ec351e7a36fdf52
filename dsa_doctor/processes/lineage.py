"""Parents and children among processes. Standard library only: the stand-alone scripts import it too."""

import ctypes
import os
import signal
from pathlib import Path

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
    for entry in _process_folders():
        try:
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # gone meanwhile
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        queue += (below := children.get(queue.pop(), []))
        found += below
    return found


def _process_folders() -> list[Path]:
    try:
        return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _prctl(option: int, value: int) -> None:
    """Call prctl(2), which only Linux has."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if call is not None:
        call(option, value, 0, 0, 0)
