"""Stages, answers, conditions and the log's tail, each on its own."""

import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_doctor.launch import conditions
from dsa_doctor.launch.devices import Device
from dsa_doctor.launch.http import base_url, is_healthy, smoke, what_is_wrong
from dsa_doctor.launch.stages import LogFacts
from dsa_doctor.launch.supervisor import descendants
from dsa_doctor.launch.tail import Tail
from tests.dsa_doctor.launch.runs import free_port

GIB = 2**30


def _read(*lines):
    facts = LogFacts()
    return facts, [stage for line in lines if (stage := facts.read(line))]


def test_stages_are_told_once_and_in_order():
    facts, stages = _read(
        "(Worker_TP0 pid=1) INFO Starting to load model x...",
        "(Worker_TP1 pid=2) INFO Starting to load model x...",
        "Loading safetensors checkpoint shards:  50% Completed | 1/2",
        "INFO 11-23 Loading weights took 5.59 seconds",
        "INFO Available KV cache memory: 25.94 GiB",
        "Loading safetensors checkpoint shards: 100% Completed | 2/2",
        "Capturing CUDA graphs (decode, FULL):   3%",
        "INFO:     Started server process [1]",
    )
    assert stages == ["load", "quantise", "profile", "capture", "serve"]
    assert facts.shards_percent == 100


def test_the_choices_are_those_of_the_worst_worker():
    facts, _ = _read(
        "INFO [cuda.py:483] Using FLASHMLA_SPARSE attention backend out of potential backends: "
        "['FLASHMLA_SPARSE', 'FLASH_ATTN_MLA_SPARSE'].",
        "INFO Using FLASH_ATTN MLA prefill backend out of potential backends: ['FLASH_ATTN'].",
        "INFO Using MARLIN Fp8 MoE backend",
        "INFO Model loading took 94.46 GiB memory and 60 seconds",
        "INFO Model loading took 90 GiB memory and 60 seconds",
        "INFO Available KV cache memory: 26.10 GiB",
        "INFO Available KV cache memory: 25.94 GiB",
        "INFO GPU KV cache size: 1,292,544 tokens",
        "INFO GPU KV cache size: 1,292,480 tokens",
        "WARNING dsa-doctor: TRITON_MLA_SPARSE will serve x.",
        "/opt/dsa-doctor/x.py:1: FutureWarning",
    )
    assert facts.backend == "FLASHMLA_SPARSE"
    assert facts.candidates == ("FLASHMLA_SPARSE", "FLASH_ATTN_MLA_SPARSE")
    assert (facts.weights_gib, facts.kv_memory_gib, facts.kv_tokens) == (94.46, 25.94, 1292480)
    assert facts.layers == ["dsa-doctor: TRITON_MLA_SPARSE will serve x."]


@given(st.text())
def test_any_line_can_be_read(line):
    LogFacts().read(line)


@pytest.mark.parametrize(
    ("text", "sane"),
    [
        (" Paris.", True), ("巴黎。", True), (" Paris, the capital of France, is", True), ("", False), (" \n ", False),
        ("!" * 16, False), ("the the the the the the the", False), ("\ufffd\ufffd\ufffdabc", False),
        ("\x00\x01", False), ("no", True),
    ],
)  # fmt: skip
def test_what_counts_as_sense(text, sane):
    assert (what_is_wrong(text) is None) is sane


def test_addresses():
    assert base_url(None, 1) == base_url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert base_url("::1", 2) == "http://[::1]:2"
    assert base_url("node1", 3) == "http://node1:3"


def test_nobody_is_healthy_where_nobody_listens():
    url = base_url(None, free_port())
    assert not is_healthy(url)
    answer = smoke(url, timeout=1)
    assert (answer.answered, answer.text) == (False, "")
    assert "no answer" in answer.problem


def test_a_listener_that_says_nothing_is_not_healthy():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        before = time.monotonic()
        assert not is_healthy(base_url(None, silent.getsockname()[1]), timeout=0.3)
        assert time.monotonic() - before < 3


def test_the_port():
    port = free_port()
    assert conditions.check_port("127.0.0.1", port).status == "pass"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        found = conditions.check_port("127.0.0.1", port)
    assert found.status == "fail"
    assert "is taken by pid" in found.summary
    assert conditions.check_port("192.0.2.1", port).status == "fail"


def _device(index, free):
    return Device(index, "NVIDIA A100", 80 * GIB, free, ((4711, "python3", 80 * GIB - free),))


def test_gpu_memory():
    assert conditions.check_gpus(None, 8, 0.92).status == "unknown"
    assert conditions.check_gpus([_device(0, 79 * GIB)], 2, 0.92).status == "fail"
    assert conditions.check_gpus([_device(0, 79 * GIB), _device(1, 10 * GIB)], 1, 0.92).status == "pass"
    found = conditions.check_gpus([_device(0, 79 * GIB), _device(1, 10 * GIB)], 2, 0.92)
    assert found.status == "fail"
    assert "GPU 1: 10.0 GiB free of 73.6 GiB needed; held by pid 4711 (python3) 70.0 GiB" in found.summary
    assert "never kills" in found.remedy


def test_shared_memory(tmp_path):
    assert conditions.check_shared_memory(1, tmp_path).status in {"pass", "warn"}
    assert conditions.check_shared_memory(8, tmp_path / "gone").status == "unknown"


def test_limits():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        assert "open files 512" in conditions.check_limits(offloads=False).summary
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    assert conditions.check_disk("org/model", None, 1000).status == "pass"
    too_much = conditions.check_disk("org/model", None, 10**18)
    assert too_much.status == "fail"
    blobs = tmp_path / "not" / "yet" / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "x").open("wb") as stream:
        stream.truncate(10**12)
    assert "1000 GB are there already" in conditions.check_disk("org/model", None, 10**12).summary
    assert conditions.check_disk("org/model", None, 10**12).status == "pass"
    assert conditions.check_disk(None, tmp_path, 0).status == "fail"
    (tmp_path / "model.safetensors").touch()
    assert conditions.check_disk(None, tmp_path, 0).status == "pass"


def test_host_memory(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  400000000 kB\nMemAvailable:  300000000 kB\n")
    assert conditions.host_memory(meminfo) == 400000000 * 1024
    assert conditions.check_host_memory(320 * GIB, meminfo).status == "fail"
    assert conditions.check_host_memory(200 * GIB, meminfo).status == "pass"
    assert conditions.check_host_memory(1, tmp_path / "gone").status == "unknown"


def test_orphans_are_reported_with_their_pid(tmp_path):
    for pid, title, parent in ((10, "VLLM::EngineCore", 1), (11, "VLLM::Worker_TP0", 10), (12, "bash", 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(title.encode() + b"\0")
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 0")
    found = conditions.check_orphans(tmp_path)
    assert found.status == "warn"
    assert "pid 10 (VLLM::EngineCore)" in found.summary
    assert "pid 11" not in found.summary
    assert conditions.check_orphans(Path("/proc")).status in {"pass", "warn"}


def test_descendants_are_found_across_sessions():
    code = "import subprocess, sys; subprocess.Popen(['sleep', '30'], start_new_session=True).wait()"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            deadline = time.monotonic() + 20
            while not (below := descendants(parent.pid)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert Path(f"/proc/{below[0]}/comm").read_text().strip() in {"sleep", "python3", "python"}
        finally:
            for pid in descendants(parent.pid):
                subprocess.run(["kill", str(pid)])
            parent.kill()


def test_the_tail_gives_whole_lines_and_bounds_endless_ones(tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"before\n")
    tail = Tail(file, 7)
    with file.open("ab", buffering=0) as stream:
        assert tail.read() == (b"", [])
        stream.write(b"one\r\ntwo\rthr")
        assert tail.read() == (b"one\r\ntwo\rthr", ["one", "two"])
        stream.write(b"ee\n")
        assert tail.read()[1] == ["three"]
        stream.write(b"x" * 200_000)
        assert sum(len(line) for line in tail.read()[1]) == 200_000
    tail.close()
