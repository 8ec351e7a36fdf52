"""Each way in which a launch can go wrong ends with the right message and code, and leaves no process."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.dsa_doctor.launch.runs import is_alive

pytestmark = pytest.mark.slow


def test_a_good_server_is_found_ready_asked_and_stopped(run):
    one = run("good").start()
    one.wait_for("smoke prompt: 'Paris, of course.'")
    said = one.said()
    assert f"ready after 0:0{said.split('ready after 0:0')[1][0]}: http://127.0.0.1:{one.port}/v1" in said
    for expected in (
        "attention backend: TRITON_MLA_SPARSE",
        "layers: dsa-doctor: TRITON_MLA_SPARSE will serve tiny.",
        "weights: 48.25 GiB per GPU",
        "KV cache: 12.50 GiB per GPU",
        "KV cache: 123,456 tokens",
    ):
        assert expected in said
    stages = [line.split("] ")[1] for line in said.splitlines() if line.startswith("dsa-doctor: [")]
    assert stages == ["load the weights", "prepare the loaded weights", "profile memory", "ready"]
    assert "INFO Starting to load model tiny..." in one.printed(), "the log is passed through"
    assert "INFO Starting to load model tiny..." in one.log.read_text(), "and kept"
    os.kill(one.process.pid, signal.SIGTERM)
    assert one.wait() == 143
    assert one.left() == []


def test_an_unready_model_is_refused_without_force(run):
    one = run("good")
    one.arguments.remove("--force")
    assert one.start().wait() == 32
    assert one.pids() == []
    assert "started" not in one.said()


def test_what_follows_the_dashes_comes_last_and_wins(run):
    one = run("good", "--max-model-len", "48", "--no-smoke").start(extra=("--max-model-len", "32", "--mystery", "a b"))
    one.wait_for("ready after")
    arguments = (one.pids_folder / "arguments").read_text().splitlines()
    assert arguments[-4:] == ["--max-model-len", "32", "--mystery", "a b"]
    assert arguments.count("--max-model-len") == 1
    assert "smoke prompt" not in one.said()


@pytest.mark.parametrize(
    ("manner", "code", "message"),
    [
        ("dies at once", 7, "vLLM ended by itself before it was ready (stage: start), exit code 7"),
        ("dies loading", 3, "DSA201 (attention), log line 5"),
        ("killed", 137, "vLLM ended by itself before it was ready (stage: load), exit code 137"),
        ("garbage", 9, "vLLM ended by itself before it was ready (stage: start), exit code 9"),
        ("leaves its engine", 5, "stopping: SIGKILL to every process"),
        ("ends without an error", 1, "vLLM ended by itself before it was ready (stage: load), exit code 1"),
        ("smoke error", 32, "the server answered HTTP 500 to the smoke prompt"),
        ("strange", 32, "has no text in it"),
    ],
)
def test_a_server_that_fails(run, manner, code, message):
    one = run(manner).start()
    assert one.wait() == code, one.said()
    assert message in one.said()
    assert f"exit code {code}" in one.said().splitlines()[-1]
    assert one.left() == []
    assert one.pids(), "the stand-in ran"


@pytest.mark.parametrize(("manner", "why"), [("degenerate", "repeats one character"), ("empty", "is empty")])
def test_an_answer_without_sense_is_a_warning_under_force(run, manner, why):
    one = run(manner).start()
    one.wait_for(why)
    time.sleep(1)
    assert one.process.poll() is None, "under --force the server is kept"


def test_a_server_that_hangs_is_ended_by_the_time_limit(run):
    one = run("hangs", "--timeout", "3").start()
    assert one.wait() == 124
    assert "not ready within 3 s (--timeout); last stage: load" in one.said()
    assert len(one.pids()) == 2
    assert one.left() == []


def test_a_server_that_ignores_sigterm_is_killed_in_stages_within_bounds(run):
    one = run("ignores SIGTERM").start()
    one.wait_for("ready after")
    one.wait_for_processes(3)
    before = time.monotonic()
    os.kill(one.process.pid, signal.SIGINT)
    assert one.wait() == 130
    assert time.monotonic() - before < 20
    stages = [line for line in one.said().splitlines() if "stopping" in line]
    assert [line.partition("stopping: ")[2] for line in stages] == [
        "SIGTERM to the server",
        "SIGTERM to every process",
        "SIGKILL to every process",
    ]
    assert one.left() == []


def test_a_second_interrupt_does_not_wait(run):
    one = run("ignores SIGTERM")
    one.arguments += ["--stop-timeout", "60"]
    one.start().wait_for("ready after")
    one.wait_for_processes(3)
    os.kill(one.process.pid, signal.SIGINT)
    one.wait_for("stopping: SIGTERM to the server")
    before = time.monotonic()
    os.kill(one.process.pid, signal.SIGINT)
    assert one.wait() == 130
    assert time.monotonic() - before < 20
    assert one.left() == []


@pytest.mark.parametrize("stage", ["load", "profile", "capture"])
def test_an_interrupt_at_every_stage(run, stage):
    titles = {"load": "load the weights", "profile": "profile memory", "capture": "capture graphs"}
    one = run("stays", environment={"STAGE": stage}).start()
    one.wait_for(titles[stage])
    one.wait_for_processes(2)
    os.kill(one.process.pid, signal.SIGINT)
    assert one.wait() == 130
    assert one.left() == []


def test_an_interrupt_while_python_still_imports(run):
    one = run("good").start()
    time.sleep(0.3)
    os.kill(one.process.pid, signal.SIGINT)
    assert one.wait() != 0
    assert one.pids() == []


def test_an_interrupt_while_vllm_is_asked_for_its_options(run):
    one = run("slow help").start()
    one.wait_for_processes(1, seconds=60)
    os.kill(one.process.pid, signal.SIGINT)
    assert one.wait() == 130
    assert "interrupted; nothing is left running" in one.said()
    one.wait_until_gone(10)


@pytest.mark.parametrize("manner", ["good", "ignores SIGTERM"])
def test_killing_dsa_doctor_leaves_no_orphan(run, manner):
    one = run(manner).start()
    one.wait_for("ready after")
    one.process.kill()
    one.process.wait()
    one.wait_until_gone(30)
    assert one.pids()


def test_killing_the_supervisor_leaves_no_orphan(run):
    one = run("good").start()
    one.wait_for("ready after")
    (server,) = one.pids("server")
    supervisor = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    assert supervisor != one.process.pid
    os.kill(supervisor, signal.SIGKILL)
    assert one.wait() != 0
    one.wait_until_gone(10)


def test_detached_it_stays_and_can_be_stopped(run):
    one = run("good", "--detach").start()
    assert one.wait() == 0
    assert len(one.left()) == 1
    supervisor = int(one.said().split("to stop it: kill ")[1].split()[0])
    time.sleep(1)
    assert one.left(), "it outlives dsa-doctor"
    os.kill(supervisor, signal.SIGTERM)
    one.wait_until_gone(20)
    deadline = time.monotonic() + 10
    while is_alive(supervisor):
        assert time.monotonic() < deadline, "the supervisor stays"
        time.sleep(0.1)


def test_a_taken_port_is_named_with_its_holder(run):
    one = run("good", "--no-smoke", "--timeout", "3")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", one.port))
        holder.listen()
        code = one.start().wait()
    assert f"port {one.port} is taken by pid {os.getpid()}" in one.said()
    # Under --force the start is tried all the same, and the server's own failure is reported.
    assert code == 1
    assert "Address already in use" in one.printed()
    assert one.left() == []


def test_a_full_disk_is_found_before_the_start(run):
    one = run("good", "--log-file", "/dev/full").start()
    assert one.wait() == 32
    assert "the log file /dev/full cannot be written: No space left on device" in one.said()
    assert one.pids() == []


def test_a_missing_model_is_named(run):
    one = run("good").start(model="/nowhere/at/all")
    assert one.wait() == 32
    assert "'/nowhere/at/all' is neither a known model nor an existing path" in one.printed() + one.said()
    assert one.pids() == []


def test_a_model_without_weights_is_not_started(run):
    one = run("good")
    (one.model / "model.safetensors").unlink()
    one.start()
    one.wait_for("holds no weights")


def test_a_missing_vllm_is_named(run):
    one = run("good", executable="/nowhere/vllm").start()
    assert one.wait() == 32
    assert "/nowhere/vllm cannot be run" in one.said()


def test_an_executable_that_is_none_is_reported(run, tmp_path):
    broken = tmp_path / "vllm"
    broken.write_text("not a program")
    broken.chmod(0o755)
    one = run("good", executable=os.fspath(broken)).start()
    assert one.wait() == 32
    assert "cannot be started: Exec format error" in one.said()
    assert one.left() == []


def test_a_vllm_that_cannot_be_asked_is_a_warning(run):
    one = run("no help", "--no-smoke").start()
    one.wait_for("ready after")
    assert "the flags could not be checked against this vLLM" in one.said()
    assert "torch is broken" in one.said()


def test_a_reader_that_goes_away_does_not_stop_the_server(run):
    read, write = os.pipe()
    one = run("good", out=f"/proc/self/fd/{write}").start()
    os.close(write)
    one.wait_for("started, pid")
    os.close(read)
    one.wait_for("smoke prompt: 'Paris")
    time.sleep(1)
    assert one.process.poll() is None
    environment = json.loads((one.pids_folder / "environment").read_text())
    assert "VLLM_ATTENTION_BACKEND" not in environment
    os.kill(one.process.pid, signal.SIGTERM)
    assert one.wait() == 143
    assert one.left() == []
