"""After the end: what the log says failed, and whether anything of this run is left."""

import shlex

from dsa_doctor.launch.devices import memory_of
from dsa_doctor.launch.process import Server
from dsa_doctor.launch.tail import LogFile
from dsa_doctor.planner.estimates import GIB

_MOST_FINDINGS = 3


def diagnosis(log: LogFile) -> list[str]:
    """Return what `dsa-doctor explain` finds in this run's part of the log, root cause first, as lines."""
    from dsa_doctor.explain import explain  # its tables are not needed by a run that works
    from dsa_doctor.explain.source import NotALogError

    try:
        before = log.lines_before()
        found = explain(log.own_part())
    except OSError as error:
        return [f"the log cannot be read: {error.strerror}"]
    except NotALogError as error:
        return [f"the log cannot be explained, because it is {error}: {log.path}"]
    lines = []
    for finding in found.findings[:_MOST_FINDINGS]:
        lines.append(f"{finding.id} ({finding.layer}), log line {before + finding.line}: {finding.summary}")
        lines += [f"  try: {remedy}" for remedy in finding.remedy[:2]]
    if not lines:
        lines = [f"nothing in the log is known to dsa-doctor; its end says: {_last_line(log)}"]
    path = shlex.quote(str(log.path))
    own = f"tail -c +{log.start + 1} {path} | dsa-doctor explain -"  # the file holds an earlier run's lines too
    return [*lines, f"more: {own if before > 1 else f'dsa-doctor explain {path}'}"]


def leftovers(server: Server) -> list[str]:
    """Return a line for each process or GPU memory of this run that is left; empty where all is gone."""
    lines = []
    if server.exit is not None and server.exit.left:
        lines.append(f"still there after SIGKILL: pids {', '.join(map(str, server.exit.left))}")
    for pid, size in (memory_of(server.pids) or {}).items():
        lines.append(f"pid {pid} of this run still holds {size / GIB:.1f} GiB of GPU memory")
    return lines


def _last_line(log: LogFile) -> str:
    from dsa_doctor.redaction import last_lines

    size = log.size()
    begin = max(log.start, size - 65536)
    lines = last_lines(log.read(begin, size - begin).decode("utf-8", "replace"), count=1)
    return lines[0] if lines else "(empty)"
