"""Children, their guards and scratch folders: what is left when any of those who take part is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dsa_doctor.processes.child import Child, ChildPool, run, scratch_folder
from tests.processes import is_alive, wait_until

FAMILY = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
folder = sys.argv[1]
for kind in ("fork", "session", "daemon"):
    if os.fork() == 0:
        if kind != "fork":
            os.setsid()
        if kind == "daemon" and os.fork():
            os._exit(0)
        open(f"{folder}/{kind}-{os.getpid()}", "w").close()
        while True:
            time.sleep(1)
open(f"{folder}/child-{os.getpid()}", "w").close()
if sys.argv[2] == "stay":
    while True:
        time.sleep(1)
while len(os.listdir(folder)) < 4:
    time.sleep(0.01)
"""
"""Ignores every polite signal, and has a child, one in a session of its own, and a daemon. All note their pids."""


@pytest.fixture
def family(tmp_path):
    """Return the arguments that start the family, and a function that gives its four pids once all run."""
    folder = tmp_path / "pids"
    folder.mkdir()

    def pids() -> list[int]:
        wait_until(lambda: len(list(folder.iterdir())) == 4, "the whole family runs")
        return [int(one.name.rpartition("-")[2]) for one in folder.iterdir()]

    yield [sys.executable, "-c", FAMILY, os.fspath(folder)], pids
    for one in folder.iterdir():
        pid = int(one.name.rpartition("-")[2])
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_what_a_child_leaves_is_ended_with_it(family):
    command, pids = family
    done = run([*command, "leave"], timeout=60)
    assert (done.status, done.code) == ("ended", 0)
    assert [pid for pid in pids() if is_alive(pid)] == []


def test_a_child_that_outstays_its_time_is_ended_with_its_family(family):
    command, pids = family
    done = run([*command, "stay"], timeout=3)
    assert (done.status, done.problem) == ("timeout", "gave no answer within 3 s")
    assert [pid for pid in pids() if is_alive(pid)] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_guard_that_is_told_to_end_ends_its_family(family, number):
    command, pids = family
    child = Child([*command, "stay"])
    own = pids()
    os.kill(child._guard.pid, number)
    assert child.wait(30) == -signal.SIGKILL
    assert [pid for pid in own if is_alive(pid)] == []


def test_a_guard_that_is_killed_takes_the_child_with_it(tmp_path):
    child = Child(["sleep", "1000"], stdout=subprocess.PIPE)
    wait_until(lambda: _children_of(child._guard.pid), "it runs")
    (pid,) = _children_of(child._guard.pid)
    child._guard.kill()
    wait_until(lambda: not is_alive(pid), "the kernel ends the child")
    assert child.wait(30) == -signal.SIGKILL


OWNER = """
import sys, time
from pathlib import Path
from dsa_doctor.processes.child import Child, scratch_folder
with scratch_folder("test-") as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    child = Child(sys.argv[2:])
    Path(sys.argv[1]).write_text(str(folder))
    while True:
        time.sleep(1)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_death_of_the_owner_ends_the_family_and_removes_its_folders(family, tmp_path, number):
    command, pids = family
    told = tmp_path / "folder"
    with subprocess.Popen([sys.executable, "-c", OWNER, told, *command, "stay"]) as owner:
        own = pids()
        wait_until(lambda: told.exists() and told.read_text(), "the folder is told")
        folder = Path(told.read_text())
        assert (folder / "deep" / "file").exists()
        owner.send_signal(number)
    wait_until(lambda: not [pid for pid in own if is_alive(pid)], "the family is gone", seconds=10)
    wait_until(lambda: not folder.exists(), "the folder is gone", seconds=10)


def test_a_scratch_folder_is_gone_when_it_is_left():
    with scratch_folder("test-") as folder:
        (folder / "file").touch()
    assert not folder.exists()


def test_streams_are_kept_apart_and_bounded():
    code = "import sys; sys.stdout.write('a' * 300_000); sys.stderr.write('b' * 300_000 + 'end')"
    done = run([sys.executable, "-c", code], timeout=60, keep_stdout=1000)
    assert done.stdout[:3] == b"aaa"
    assert len(done.stdout) < 100_000
    assert done.stderr.endswith(b"bend")
    assert len(done.stderr) <= 64 << 10


@pytest.mark.parametrize(
    ("code", "status", "problem"),
    [
        ("raise SystemExit(3)", 3, "ended with exit status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -11, "died of SIGSEGV"),
        ("import os; os.kill(os.getpid(), 40)", -40, "died of signal 40"),
        ("pass", 0, ""),
    ],
)
def test_the_end_is_told_as_it_was(code, status, problem):
    done = run([sys.executable, "-c", code], timeout=60)
    assert (done.status, done.code, done.problem) == ("ended", status, problem)


@pytest.mark.parametrize(("content", "reason"), [("not a program", "Exec format error"), (None, "No such file")])
def test_a_command_that_cannot_run_says_why(tmp_path, content, reason):
    path = tmp_path / "tool"
    if content is not None:
        path.write_text(content)
        path.chmod(0o755)
    done = run([path], timeout=60)
    assert done.status == "not_started"
    assert reason in done.problem


def test_pipes_are_not_ignored_by_the_child():
    """Python ignores SIGPIPE; a command that inherits that writes into a closed pipe for ever."""
    done = run(["sh", "-c", "yes | head -n 1; echo ${PIPESTATUS:-} >&2"], timeout=20)
    assert done.stdout == b"y\n"
    code = "import signal; print(signal.getsignal(signal.SIGPIPE))"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True).stdout
    assert run([sys.executable, "-c", code], timeout=60).stdout == plain


def test_a_pool_left_by_an_interrupt_does_not_wait_for_its_children():
    started = threading.Event()

    def sleep() -> None:
        child = Child(["sleep", "1000"])
        started.set()
        child.wait()

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ChildPool(2) as pool:  # noqa: PT012 - the pool is what is tested
        pool.submit(sleep)
        started.wait(30)
        raise KeyboardInterrupt
    assert time.monotonic() - before < 30


def _children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
