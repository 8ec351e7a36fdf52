"""After the end: what the log says failed, and whether anything of this run is left."""

from pathlib import Path

from dsa_doctor.launch.devices import memory_of
from dsa_doctor.launch.process import Server
from dsa_doctor.planner.estimates import GIB

_MOST_FINDINGS = 3


def diagnosis(log: Path) -> list[str]:
    """Return what `dsa-doctor explain` finds in the log, root cause first, as lines."""
    from dsa_doctor.explain import explain  # its tables are not needed by a run that works

    try:
        with log.open("rb") as stream:
            found = explain(stream)
    except OSError as error:
        return [f"the log cannot be read: {error.strerror}"]
    lines = []
    for finding in found.findings[:_MOST_FINDINGS]:
        lines.append(f"{finding.id} ({finding.layer}), log line {finding.line}: {finding.summary}")
        lines += [f"  try: {remedy}" for remedy in finding.remedy[:2]]
    if not lines:
        lines = [f"nothing in the log is known to dsa-doctor; its end says: {_last_line(log)}"]
    return [*lines, f"more: dsa-doctor explain {log}"]


def leftovers(server: Server) -> list[str]:
    """Return a line for each process or GPU memory of this run that is left; empty where all is gone."""
    lines = []
    if server.exit is not None and server.exit.left:
        lines.append(f"still there after SIGKILL: pids {', '.join(map(str, server.exit.left))}")
    for pid, size in (memory_of(server.pids) or {}).items():
        lines.append(f"pid {pid} of this run still holds {size / GIB:.1f} GiB of GPU memory")
    return lines


def _last_line(log: Path) -> str:
    from dsa_doctor.redaction import last_lines

    with log.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - 65536))
        lines = last_lines(stream.read().decode("utf-8", "replace"), count=1)
    return lines[0] if lines else "(empty)"
