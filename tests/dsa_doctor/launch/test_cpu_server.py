"""A real vLLM server, its CPU build, started, found healthy, asked, interrupted and killed through run-model."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cpu_vllm import cpu_vllm_python
from tests.dsa_doctor.launch.runs import Run, is_alive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("told_before")]

TINY_LLAMA = Path(__file__).parents[2] / "tiny_llama.py"
EXTRA = ("--enforce-eager", "--dtype", "float32", "--max-model-len", "256")


@pytest.fixture(scope="module")
def python():
    return cpu_vllm_python()


@pytest.fixture(scope="module")
def model(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    subprocess.run([python, TINY_LLAMA, folder], check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture
def server(python, model, tmp_path):
    one = Run(
        tmp_path,
        ["--verbose"],
        {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"},
        executable=os.fspath(python.with_name("vllm")),
    )
    one.arguments += ["--stop-timeout", "20"]
    one.start_whole(model=os.fspath(model), extra=EXTRA)
    yield one
    one.clean()


def _own(server):
    """Return the processes of the run: those whose command line or parents lead to the supervisor."""
    from dsa_doctor.processes.lineage import descendants

    return descendants(server.process.pid)


def test_started_asked_and_interrupted(server):
    server.wait_for("smoke prompt:", seconds=600)
    said = server.said()
    assert "dsa-doctor: warning: the flags are not checked" not in said, "this vLLM said what it knows"
    assert f"http://127.0.0.1:{server.port}/v1" in said
    stages = [line.split("] ")[1] for line in said.splitlines() if line.startswith("dsa-doctor: [")]
    assert stages[0] == "load the weights"
    assert stages[-1] == "ready"
    assert "tokens" in said.partition("KV cache: ")[2].splitlines()[0]
    assert 'POST /v1/completions HTTP/1.1" 200 OK' in server.log.read_text()
    own = _own(server)
    assert len(own) >= 3, "the supervisor, the API server and its engine"
    os.kill(server.process.pid, signal.SIGINT)
    assert server.wait(120) == 130
    assert [pid for pid in own if is_alive(pid)] == []
    assert "still" not in server.said().rpartition("smoke prompt")[2]


def test_killed_while_it_serves_it_leaves_nothing(server):
    server.wait_for("ready after", seconds=600)
    own = _own(server)
    assert len(own) >= 3
    server.process.kill()
    server.process.wait()
    deadline = time.monotonic() + 90
    while left := [pid for pid in own if is_alive(pid)]:
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.2)
