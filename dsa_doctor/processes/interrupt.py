"""What a signal does to a command: its children end, then it ends itself, within a second, whatever it waits for.

The work is done by a thread of its own, which the interpreter's C handler wakes through a pipe. A Python handler would
run in the main thread alone, between two of its instructions: not while that waits for a full pipe or a pool.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE = 0.7

_receivers: list[Callable[[int], None]] = []
_installed = False


def heed_signals() -> None:
    """From now on a signal ends this process with status 128 + its number, in one line and without a traceback.

    A signal that is ignored when this is called stays so: that is what nohup and a shell's background jobs ask for.
    To be called from the main thread, as early as possible.
    """
    global _installed
    if _installed:
        return
    _installed = True
    read, write = (_beyond_streams(end) for end in os.pipe())
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), name="signals", daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


def leave(code: object) -> None:
    """End the process with an exit status, now: while the interpreter cleans up, signals are no longer heeded.

    Returns where the status is no number: the interpreter then says what it is.
    """
    if code is None or isinstance(code, int):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # told already, where it matters
                stream.flush()
        os._exit(int(code or 0) & 0xFF)


def _beyond_streams(descriptor: int) -> int:
    """Move a descriptor above those of the standard streams, whose numbers are free where the shell closed them."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


@contextlib.contextmanager
def signals_to(receiver: Callable[[int], None]) -> Iterator[None]:
    """Give signals to `receiver`, called in another thread with the number, in place of ending the process."""
    heed_signals()
    _receivers.append(receiver)
    try:
        yield
    finally:
        _receivers.remove(receiver)


def _watch(woken: int) -> None:
    while True:
        for number in os.read(woken, 64):
            if number in SIGNALS:
                (_receivers[-1] if _receivers else _end)(number)


def _end(number: int) -> None:
    """End the children, then this process; it never returns."""
    from dsa_doctor.processes.child import end_children  # not needed by a command that starts none

    try:
        gone = end_children(_PATIENCE, for_good=True)
        left = "nothing is left running" if gone else "what it started is being killed"
        _say(f"dsa-doctor: ended by {signal.Signals(number).name}; {left}\n")
    finally:
        os._exit(128 + number)


def _say(text: str) -> None:
    """Write to standard error if it takes it: a stopped terminal or a full pipe must not keep this process."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stderr.fileno()
        if select.select([], [descriptor], [], 0)[1]:
            # A status line may stand there, with the cursor hidden.
            clean = "\r\x1b[K\x1b[?25h" if os.isatty(descriptor) and os.environ.get("TERM") != "dumb" else ""
            os.write(descriptor, (clean + text).encode())
