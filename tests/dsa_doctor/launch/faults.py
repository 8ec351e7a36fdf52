"""Every fault at every stage at which it can befall a launch: how it is brought about, the status, and what is said.

The table of docs/run-model.md is drawn from this list, and each entry is a test.
"""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.dsa_doctor.launch.runs import Run, wait_until

STAGES = ("before the start", "while it loads", "once it is ready")
BEFORE, LOADING, READY = STAGES
KEPT = None
"""In place of a status: the server goes on."""

Make = Callable[..., Run]


@dataclass(frozen=True)
class Fault:
    """One entry of the table.

    Attributes:
        name: the fault.
        stage: when.
        status: exit status of run-model; KEPT where the server goes on; negative where run-model itself is killed.
        said: text that must be among what it says; `{port}` is the port.
        play: brings it about in a run, and returns that.
    """

    name: str
    stage: str
    status: int | None
    said: str
    play: Callable[[Make], Run]


FAULTS: list[Fault] = []


def fault(name: str, stage: str, status: int | None, said: str = "") -> Callable[[Callable[[Make], Run]], None]:
    """Add an entry."""

    def add(play: Callable[[Make], Run]) -> None:
        FAULTS.append(Fault(name, stage, status, said, play))

    return add


def loading(make: Make, manner: str = "stays", **fields) -> Run:
    """Return a run that loads, with an engine that has a session of its own."""
    one = make(manner, environment={"STAGE": "load"}, **fields).start()
    one.wait_for("load the weights")
    if manner == "stays":
        one.wait_for_processes(2)
    return one


def ready(make: Make, manner: str = "has an engine", **fields) -> Run:
    """Return a run that is ready and has answered."""
    one = make(manner, **fields).start()
    one.wait_for("smoke prompt: ")
    return one


AT = {LOADING: loading, READY: ready}

for _name, _number in (("Ctrl-C", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP"), ("SIGQUIT", "SIGQUIT")):
    for _stage, _begin in AT.items():

        @fault(_name, _stage, 128 + signal.Signals[_number], "stopping: SIGTERM to the server")
        def _(make: Make, begin=_begin, number=signal.Signals[_number]) -> Run:
            one = begin(make)
            one.signal(number)
            return one


@fault("Ctrl-C", BEFORE, 130, "ended by SIGINT; nothing is left running")
def _(make: Make) -> Run:
    one = make("slow help").start_whole()
    one.wait_for_processes(1)
    one.signal(signal.SIGINT)
    return one


for _stage, _manner in ((LOADING, "ignores SIGTERM, loading"), (READY, "ignores SIGTERM")):

    @fault("second Ctrl-C, the server ignoring SIGTERM", _stage, 130, "stopping: SIGKILL to every process")
    def _(make: Make, stage=_stage, manner=_manner) -> Run:
        one = AT[stage](make, manner, options={"stop_timeout": 600.0})
        one.wait_for_processes(3)
        one.signal(signal.SIGINT)
        one.wait_for("stopping: SIGTERM to the server")
        one.signal(signal.SIGINT)
        return one

    @fault("one Ctrl-C, the server ignoring SIGTERM", _stage, 130, "stopping: SIGKILL to every process")
    def _(make: Make, stage=_stage, manner=_manner) -> Run:
        one = AT[stage](make, manner, options={"stop_timeout": 0.5})
        one.wait_for_processes(3)
        one.signal(signal.SIGINT)
        return one


for _stage, _begin in AT.items():

    @fault("run-model is killed (SIGKILL)", _stage, -signal.SIGKILL)
    def _(make: Make, begin=_begin) -> Run:
        one = begin(make)
        one.signal(signal.SIGKILL)
        return one

    @fault("its supervisor is killed (SIGKILL)", _stage, 1, "because the supervisor was killed")
    def _(make: Make, begin=_begin) -> Run:
        one = begin(make)
        (server,) = one.pids("server")
        os.kill(psutil.Process(server).ppid(), signal.SIGKILL)
        return one

    @fault("the server is killed (SIGKILL)", _stage, 137, "exit code 137")
    def _(make: Make, begin=_begin) -> Run:
        one = begin(make)
        (server,) = one.pids("server")
        os.kill(server, signal.SIGKILL)
        return one


@fault("run-model is killed while it stops the server", READY, -signal.SIGKILL)
def _(make: Make) -> Run:
    one = ready(make, "ignores SIGTERM")
    one.wait_for_processes(3)
    one.signal(signal.SIGINT)
    one.wait_for("stopping: SIGTERM to the server")
    one.signal(signal.SIGKILL)
    return one


@fault("the port is taken", BEFORE, 32, "port {port} is taken by pid")
def _(make: Make) -> Run:
    one = make("good", options={"force": False})
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", one.port))
        holder.listen()
        one.start()
        one.wait()
    return one


@fault("the port is taken, with --force", LOADING, 1, "OSError: [Errno 98] Address already in use")
def _(make: Make) -> Run:
    one = make("good")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", one.port))
        holder.listen()
        one.start()
        one.wait()
    return one


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def _another_server(port: int, *, shared: bool):
    """Answer on a port as a healthy server does, from this process."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Healthy, bind_and_activate=False)
    if shared:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.server_bind()
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@fault("another server answers on the port, with --force", LOADING, 124, "which this run did not start")
def _(make: Make) -> Run:
    one = make("hangs", options={"timeout": 4.0})
    with _another_server(one.port, shared=False):
        one.start()
        one.wait()
    assert "ready after" not in one.said()
    return one


@fault("another server shares the port, with --force", LOADING, 124, "which this run did not start")
def _(make: Make) -> Run:
    one = make("shares its port", options={"timeout": 4.0})
    with _another_server(one.port, shared=True):
        one.start()
        one.wait()
    assert "ready after" not in one.said()
    return one


@fault("the disk of the log is full", BEFORE, 32, "the log file /dev/full cannot be written: No space left on device")
def _(make: Make) -> Run:
    one = make("good")
    one.log = Path("/dev/full")
    return one.start()


@fault("the disk of the log is full", LOADING, 28, "is full: what the server writes now is lost")
def _(make: Make) -> Run:
    one = make("fills its disk")
    disk = one.folder / "disk"
    disk.mkdir()
    small = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"', os.fspath(disk)]
    if subprocess.run([*small, "true"], capture_output=True).returncode != 0:
        pytest.skip("no small file system can be mounted here")
    one.within, one.log = small, disk / "server.log"
    one.start()
    one.wait_for("load the weights")
    (one.pids_folder / "go").touch()
    return one


@fault("it hangs", LOADING, 124, "not ready within 3 s (--timeout); last stage: load")
def _(make: Make) -> Run:
    return make("hangs", options={"timeout": 3.0}).start()


@fault("it hangs", READY, 32, "no answer to the smoke prompt within 2 s")
def _(make: Make) -> Run:
    return make("silent", options={"smoke_timeout": 2.0}).start()


@fault("its answer comes byte by byte, without end", READY, 32, "no answer to the smoke prompt within 2 s")
def _(make: Make) -> Run:
    return make("drips", options={"smoke_timeout": 2.0}).start()


for _manner, _name, _said in (
    ("degenerate", "it answers with one character", "the answer repeats one character"),
    ("empty", "its answer is empty", "the answer is empty"),
    ("strange", "its answer holds no text", 'has no text in it: \'{"choices"'),
    ("smoke error", "it answers with HTTP 500", 'the server answered HTTP 500 to the smoke prompt: \'{"error"'),
    ("not json", "its answer is not JSON", "is not JSON: '<html>Paris?</html>'"),
    ("not http", "its answer is not HTTP", "does not speak HTTP: 'SSH-2.0-OpenSSH_9.6'"),
    ("breaks off", "its answer breaks off", "breaks off after 1 bytes"),
    ("hangs up", "it hangs up", "closed the connection without an answer"),
    ("too long", "its answer is too long", "is longer than 1 MiB"),
):

    @fault(_name, READY, 32, _said)
    def _(make: Make, manner=_manner) -> Run:
        return make(manner, options={"force": False}).start()


@fault("it refuses the key (HTTP 401)", READY, KEPT, "the server answered HTTP 401 to the smoke prompt")
def _(make: Make) -> Run:
    return make("refuses", options={"force": False}).start("--api-key", "the-secret-key")


def _rename(log: Path) -> None:
    log.rename(log.with_suffix(".1"))
    log.write_text("INFO a new file, as logrotate makes it\n")


def _cut(log: Path) -> None:
    os.truncate(log, 0)


for _name, _change in (("renamed", _rename), ("cut short", _cut), ("removed", Path.unlink)):
    for _stage, _manner in ((LOADING, "fails when told"), (READY, "fails when told, serving")):

        @fault(f"the log is {_name}, and the server fails", _stage, 3, "DSA201 (attention)")
        def _(make: Make, stage=_stage, manner=_manner, change=_change) -> Run:
            one = AT[stage](make, manner)
            change(one.log)
            (one.pids_folder / "go").touch()
            return one


for _stage, _environment in ((LOADING, {"STAGE": "load"}), (READY, {})):

    @fault("the reader of the output stalls, then Ctrl-C", _stage, 130, "bytes not shown")
    def _(make: Make, stage=_stage, environment=_environment) -> Run:
        read, write = os.pipe()
        one = make(
            "talks" if stage == READY else "talks, loading",
            out=write,
            environment={**environment, "TALK": str(2 << 20)},
        )
        one.start()
        os.close(write)
        one.wait_for("smoke prompt: " if stage == READY else "load the weights")
        one.wait_until((one.pids_folder / "talked").exists, "the pipe is full")
        one.signal(signal.SIGINT)
        one.wait()
        os.close(read)
        return one


@fault("the reader of the output goes away", READY, KEPT, "smoke prompt: ")
def _(make: Make) -> Run:
    read, write = os.pipe()
    one = make("good", out=write).start()
    os.close(write)
    one.wait_for("started, pid")
    os.close(read)
    return one


for _manner, _name, _status, _said in (
    ("dies at once", "it ends by itself with status 7", 7, "before it was ready (stage: start), exit code 7"),
    ("dies loading", "no attention backend is found", 3, "DSA201 (attention), log line 5"),
    ("garbage", "it prints binary data and ends with status 9", 9, "before it was ready (stage: start), exit code 9"),
    ("leaves its engine", "it ends and leaves an engine", 5, "stopping: SIGKILL to every process"),
    ("ends without an error", "it ends with status 0", 1, "before it was ready (stage: load), exit code 1"),
):

    @fault(_name, LOADING, _status, _said)
    def _(make: Make, manner=_manner) -> Run:
        return make(manner).start()


@fault("no vllm command", BEFORE, 32, "/nowhere/vllm cannot be run")
def _(make: Make) -> Run:
    return make("good", executable="/nowhere/vllm").start()


@fault("the vllm command is no program", BEFORE, 32, "cannot be started: Exec format error")
def _(make: Make) -> Run:
    one = make("good")
    broken = one.folder / "vllm"
    broken.write_text("not a program")
    broken.chmod(0o755)
    one.executable = os.fspath(broken)
    return one.start()


@fault("the folder holds no weights", BEFORE, 32, "holds no weights")
def _(make: Make) -> Run:
    one = make("good", options={"force": False})
    (one.model / "model.safetensors").unlink()
    return one.start()


def table() -> str:
    """Return the table as Markdown: a row for each fault, a column for each stage."""
    names = list(dict.fromkeys(one.name for one in FAULTS))
    rows = [f"| Fault | {' | '.join(STAGES)} |", "|---" * (1 + len(STAGES)) + "|"]
    for name in names:
        cells = [_cell([one for one in FAULTS if (one.name, one.stage) == (name, stage)]) for stage in STAGES]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(found: list[Fault]) -> str:
    if not found:
        return ""
    (one,) = found
    status = "goes on" if one.status is KEPT else f"`{one.status}`" if one.status >= 0 else "killed"
    said = one.said.replace("{port}", "N")
    return f"{status}: “{said}”" if said else status


def others_left(one: Run) -> list[str]:
    """Return every process that carries this run's environment, supervisors and guards included."""
    mark = os.fspath(one.pids_folder)
    found = []
    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PIDS") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
    return found


def wait_until_nothing_is_left(one: Run) -> None:
    """Wait until no process of a run is there any more."""
    wait_until(lambda: not others_left(one), f"nothing is left: {others_left(one)}", seconds=60)
