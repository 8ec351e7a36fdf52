"""Signals at every command: it ends within a second, says so in one line, and leaves no process and no folder."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsa_doctor.processes.lineage import descendants
from tests.processes import fill, is_alive, wait_until

HANGING_VLLM = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
def note():
    open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w").close()
    while True:
        time.sleep(1)
if os.fork() == 0:
    note()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    note()
note()
"""
"""Hangs at its import, ignores every polite signal, and has a child and a daemon."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
PROMPT_SECONDS = 3.0
"""A second, and as much again twice for a machine that is busy: the wait that this ends would be of minutes."""


def _heed_interrupts() -> None:
    """A test run in the background, or under nohup, ignores some of them, and its children would inherit that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a command in an environment whose vLLM hangs."""
    pids, scratch, site = tmp_path / "pids", tmp_path / "tmp", tmp_path / "site"
    for folder in (pids, scratch, site / "vllm"):
        folder.mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text(HANGING_VLLM)
    environment = {
        **os.environ,
        "PYTHONPATH": os.fspath(site),
        "TMPDIR": os.fspath(scratch),
        "PIDS": os.fspath(pids),
        "XDG_CACHE_HOME": os.fspath(tmp_path / "cache"),
        "NO_COLOR": "1",
    }
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, **options) -> subprocess.Popen[bytes]:
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "preexec_fn": _heed_interrupts,
            **options,
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "dsa_doctor", *arguments],
                env=environment,
                cwd=tmp_path,
                **streams,
            )
        )
        return started[-1]

    run.pids = lambda: [int(one.name) for one in pids.iterdir()]
    run.scratch = scratch
    yield run
    for process in started:
        process.kill()
        process.wait()
    for pid in run.pids():
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def _heeds(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM, as Python itself has not."""
    with contextlib.suppress(OSError):
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def _waits(pid: int) -> bool:
    """Whether a process that heeds signals has slept through a fifth of a second."""
    for _ in range(20):
        if not _heeds(pid) or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            return False
        time.sleep(0.01)
    return True


def _hangs(start, *arguments: str) -> subprocess.Popen[bytes]:
    process = start(*arguments)
    wait_until(lambda: len(start.pids()) == 3 or process.poll() is not None, "vLLM is being imported")
    assert process.poll() is None, process.communicate()
    return process


def _ended(process: subprocess.Popen[bytes], number: int) -> None:
    """Send the signal, and find the command ended promptly, as it should be."""
    before = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, (out, err)
    said, _, left = err.decode().partition("; ")
    assert said == f"dsa-doctor: ended by {signal.Signals(number).name}"
    # A busy kernel takes longer than the command waits to take a killed process's memory away: it then says so.
    assert left in {"nothing is left running\n", "what it started is being killed\n"}
    assert time.monotonic() - before < PROMPT_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["check", "facts", "run-model"])
def test_a_hanging_import_is_ended_with_everything_that_it_started(start, command, number):
    process = _hangs(start, *{"check": ("check", "-t", "a100"), "facts": ("facts",)}.get(
        command, ("run-model", "GLM-5-FP8", "-t", "a100", "--dry-run")
    ))  # fmt: skip
    own = start.pids()
    _ended(process, number)
    wait_until(lambda: not [pid for pid in own if is_alive(pid)], "what it started is gone", seconds=10)
    wait_until(lambda: not list(start.scratch.iterdir()), "its folder is gone", seconds=10)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("check", "-t", "a100"), ("facts",)])
def test_a_killed_command_leaves_no_process_and_no_folder(start, command):
    process = _hangs(start, *command)
    process.kill()
    process.wait()
    own = start.pids()
    wait_until(lambda: not [pid for pid in own if is_alive(pid)], "the children are gone", seconds=10)
    wait_until(lambda: not list(start.scratch.iterdir()), "the scratch folder is gone", seconds=10)


def test_a_second_interrupt_changes_nothing(start):
    process = _hangs(start, "check", "-t", "a100")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"dsa-doctor: ended by SIGINT; nothing is left running\n"


def test_a_command_that_waits_for_its_input_ends(start):
    process = start("explain", "-", stdin=subprocess.PIPE)
    wait_until(lambda: _waits(process.pid), "it waits for its input")
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - before < PROMPT_SECONDS
    assert process.stderr.read() == b"dsa-doctor: ended by SIGINT; nothing is left running\n"


def test_a_command_whose_reader_stalls_ends(start):
    """Both streams lead into one pipe that nobody reads and that is full."""
    read, write = os.pipe()
    fill(write)
    process = start("models", stdout=write, stderr=write)
    os.close(write)
    wait_until(lambda: _waits(process.pid), "it waits for its reader")
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert time.monotonic() - before < PROMPT_SECONDS
    os.close(read)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_an_interrupt_at_any_moment_of_the_start_leaves_no_traceback(start, delay):
    """Before the command line is there to heed it, the interpreter's own site import may be what is interrupted."""
    process = start("models")
    wait_until(lambda: _heeds(process.pid) or process.poll() is not None, "signals are heeded")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in {0, 130}
    assert b"Traceback" not in err


@pytest.mark.slow
def test_compiling_for_a_target_ends(start):
    process = start("verify", "--target", "a100")
    wait_until(lambda: descendants(process.pid), "the compiler runs")
    own = descendants(process.pid)
    _ended(process, signal.SIGTERM)
    wait_until(lambda: not [pid for pid in own if is_alive(pid)], "the compiler is gone", seconds=10)


def test_an_ignored_signal_stays_ignored(start):
    """As nohup asks for it."""
    process = start(
        "explain", "-", stdin=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    wait_until(lambda: _waits(process.pid), "it waits for its input")
    process.send_signal(signal.SIGHUP)
    process.communicate(b"nothing to see\n", timeout=60)
    assert process.returncode == 0


def test_closed_streams_are_not_taken_for_the_pipe_that_tells_of_signals():
    command = f"{sys.executable} -m dsa_doctor models >&- 2>&- <&-; echo $?"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout == "74\n"
