"""Parent of one child: ends it, and whatever it started, when it is done or when nobody waits for it any more.

A stand-alone script (standard library only), run by path in a session of its own. Its arguments are a file descriptor
and a command, or a file descriptor, `--folder` and a folder. The descriptor is one end of a socket pair. Its end of
file means that the process at the other end is gone, however it died, or that it asks for the end: then everything
below the guard is killed, whatever session it moved to, because the guard adopts orphans. In the other direction go
lines: `pid N` once the command runs, `error N` (errno) if it cannot be run, `status N` at the end, negative for the
signal it died of. Standard streams and other descriptors are the command's.

With `--folder` there is no command: the folder is removed at the end of file.

Every child of dsa-doctor waits for this script to start, so it imports little: contextlib, json and pathlib double
its time.
"""

import os
import select
import signal
import sys
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

from dsa_doctor.processes.lineage import adopt_orphans, descendants, die_with

_PATIENCE = 5.0
"""Seconds that what was killed has to be gone: one in an uninterruptible wait may take longer than anyone waits."""
_ROUND = 0.01
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Guard:
    """One command and its descendants."""

    def __init__(self, lifeline: int) -> None:
        self.lifeline = lifeline
        self.child = 0
        self.status: int | None = None
        os.set_inheritable(lifeline, False)
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *_SIGNALS):
            signal.signal(number, lambda _number, _frame: None)

    def run(self, command: list[str]) -> None:
        """Run the command until it ends or must end, and leave nothing of it."""
        adopt_orphans()
        error = self._start(command)
        if error is not None:
            self._tell("error", error)
            return
        self._tell("pid", self.child)
        while self._reap() and self.status is None and not self._is_over():
            pass
        self._end_all()
        self._tell("status", -signal.SIGKILL if self.status is None else self.status)

    def keep(self, folder: str) -> None:
        """Remove a folder once nobody needs it."""
        while not self._is_over():
            pass
        import shutil  # costs more than all else here, and is needed last

        deadline = time.monotonic() + _PATIENCE
        while os.access(folder, os.F_OK) and time.monotonic() < deadline:  # what wrote there is being killed
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(_ROUND)

    def _start(self, command: list[str]) -> int | None:
        """Fork and exec; return the error number where that fails."""
        guard = os.getpid()
        read, write = os.pipe()  # closed by a successful exec
        self.child = os.fork()
        if not self.child:
            try:
                os.setsid()
                die_with(guard)
                for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the command must not
                    signal.signal(number, signal.SIG_DFL)
                os.execvp(command[0], command)  # noqa: S606 - no shell
            except OSError as error:
                os.write(write, str(error.errno).encode())
            finally:
                os._exit(127)
        os.close(write)
        said = os.read(read, 16)
        os.close(read)
        return int(said) if said else None

    def _is_over(self) -> bool:
        """Wait for something to happen; True at the end of the lifeline, or at a signal that asks for the end."""
        ready, _, _ = select.select([self.lifeline, self._woken], [], [])
        if self._woken in ready and any(number in _SIGNALS for number in os.read(self._woken, 4096)):
            return True
        if self.lifeline not in ready:
            return False
        try:
            return not os.read(self.lifeline, 1)
        except OSError:  # the other end was lost with something unread in it
            return True

    def _reap(self) -> bool:
        """Reap what has ended, and return whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self.child:
                self.status = os.waitstatus_to_exitcode(status)

    def _end_all(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._reap() and time.monotonic() < deadline:
            for pid in descendants(os.getpid()) or [self.child]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
            time.sleep(_ROUND)

    def _tell(self, what: str, number: int) -> None:
        try:
            os.write(self.lifeline, b"%s %d\n" % (what.encode(), number))
        except OSError:  # nobody is there any more
            return


if __name__ == "__main__":
    descriptor, *rest = sys.argv[1:]
    if rest[0] == "--folder":
        Guard(int(descriptor)).keep(rest[1])
    else:
        Guard(int(descriptor)).run(rest)
