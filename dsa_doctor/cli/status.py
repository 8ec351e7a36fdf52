"""One line on a terminal that says what is waited for, from the second second on; gone at the end."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator

_DELAY_SECONDS = 1.0
_PERIOD_SECONDS = 0.25
_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def status(*, human: bool) -> Iterator[None]:
    """Show the line while this is entered, if a person sits before it.

    Nothing of it goes into a pipe or a file, to a dumb terminal, into a CI job's log, or beside a report for machines.

    Args:
        human: whether the report is for people.
    """
    terminal = sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}
    if not (human and terminal) or os.environ.get("CI"):
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_show, args=(over,), name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1.0)  # a terminal that was stopped (Ctrl-S) takes no write


def _show(over: threading.Event) -> None:
    from dsa_doctor.probes.progress import longest

    start = time.monotonic()
    if over.wait(_DELAY_SECONDS):
        return
    try:
        while not over.wait(_PERIOD_SECONDS):
            what = longest() or "preparing the report"
            line = f"dsa-doctor: {what}, {time.monotonic() - start:.0f} s"
            # The cursor waits at the start of the line, where whatever comes next begins: a signal's last word, say.
            _write(f"{_CLEAR}{line[: shutil.get_terminal_size().columns - 1]}\r")
    finally:
        _write(_CLEAR)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
