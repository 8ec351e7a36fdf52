"""Stages, answers, conditions and the log's tail, each on its own."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_doctor.launch import conditions
from dsa_doctor.launch.devices import Device
from dsa_doctor.launch.endpoint import Endpoint, endpoint_of, listeners_on
from dsa_doctor.launch.outlets import LogCopy, Relay
from dsa_doctor.launch.request import launch_options
from dsa_doctor.launch.secrets import Mask, hidden, left_out, secrets_of
from dsa_doctor.launch.smoke import is_healthy, smoke, what_is_wrong
from dsa_doctor.launch.stages import LogFacts
from dsa_doctor.launch.tail import LogFile, Tail
from dsa_doctor.processes.lineage import descendants
from tests.dsa_doctor.launch.runs import free_port, wait_until

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


def _endpoint(port: int, **fields) -> Endpoint:
    return Endpoint(("127.0.0.1",), port, **fields)


def _asked(*passthrough: str, **given):
    return endpoint_of(launch_options("x", {"port": 8000, **given}, passthrough), {})


def test_addresses():
    assert _asked().url == _asked(host="0.0.0.0").url == _asked(host="").url == "http://127.0.0.1:8000"
    assert _asked(host="::1").url == _asked(host="[::1]").url == "http://[::1]:8000"
    assert _asked(host="::").hosts == ("127.0.0.1", "::1")
    assert _asked("--port", "3", host="node1").url == "http://node1:3"
    assert _asked("--ssl-certfile", "c.pem").url == "https://127.0.0.1:8000"
    assert _asked("--uds=/run/x").url == "http://localhost"


def test_the_key_is_that_of_the_option_else_of_the_variable(tmp_path):
    assert _asked("--api-key", "one", "two").api_key == "one"
    assert _asked("--api_key=one").api_key == "one"
    options = launch_options("x", {}, ("--api-key", "one"))
    assert endpoint_of(options, {"VLLM_API_KEY": "other"}).api_key == "one"
    assert endpoint_of(launch_options("x"), {"VLLM_API_KEY": "other"}).api_key == "other"
    file = tmp_path / "vllm.yaml"
    file.write_text("api-key: [from-file]\nport: 9000\n")
    found = endpoint_of(launch_options("x", {}, ("--config", str(file))), {"VLLM_API_KEY": "other"})
    assert (found.api_key, found.port) == ("from-file", 9000)
    assert "from-file" not in repr(found)


def test_nobody_is_healthy_where_nobody_listens():
    endpoint = _endpoint(free_port())
    assert not is_healthy(endpoint)
    answer = smoke(endpoint, timeout=1)
    assert (answer.answered, answer.refused, answer.text) == (False, False, "")
    assert answer.problem == "the connection for GET /v1/models failed: Connection refused"
    assert endpoint.listeners() == []


def test_a_listener_that_says_nothing_is_not_healthy():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = _endpoint(silent.getsockname()[1])
        assert not is_healthy(endpoint, timeout=0.2)
        assert smoke(endpoint, timeout=0.2).problem == "no answer to the smoke prompt within 0 s (GET /v1/models)"
        assert [one.pid for one in endpoint.listeners()] == [os.getpid()]


def test_listeners_at_another_address_are_not_ours():
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        port = other.getsockname()[1]
        assert _endpoint(port).listeners() == []
        assert [one.pid for one in listeners_on(port)] == [os.getpid()]
        assert [one.pid for one in Endpoint(("127.0.0.2",), port).listeners()] == [os.getpid()]


def test_a_wildcard_listens_at_every_address():
    with socket.socket(socket.AF_INET6) as any_address:
        any_address.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        any_address.bind(("::", 0))
        any_address.listen()
        port = any_address.getsockname()[1]
        assert [one.pid for one in _endpoint(port).listeners()] == [os.getpid()]


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


def test_host_memory():
    total = conditions.host_memory()
    assert total is not None
    listed = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert total == int(listed[1]) * 1024
    found = conditions.check_host_memory(total + 1)
    assert found.status == "fail"
    assert found.summary.startswith("CPU offload pins ")
    tables = conditions.check_host_memory(total + 1, total + 1)
    assert tables.summary.startswith("n-gram tables pin ")
    assert "cpu_offload" in tables.remedy
    both = conditions.check_host_memory(total + 1, 1)
    assert both.summary.startswith("n-gram tables and CPU offload pin ")
    assert conditions.check_host_memory(1).status == "pass"


ADOPTER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # takes in orphans
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)  # its name
if os.fork() == 0:
    if os.fork() == 0:
        os.execv("/bin/sleep", ["VLLM::EngineCore", "1000"])
    os._exit(0)
os.wait()
print("adopted", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("name", "orphaned"), [("tini", True), ("python3", False)])
def test_orphans_are_reported_with_their_pid(name, orphaned):
    """An engine below a container's first process has lost its server; below anything else it may have one."""
    command = [sys.executable, "-c", ADOPTER, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as adopter:
        assert adopter.stdout.readline() == b"adopted\n"
        (engine,) = descendants(adopter.pid)
        try:
            wait_until(lambda: b"VLLM" in Path(f"/proc/{engine}/cmdline").read_bytes(), "it has its title")
            found = conditions.check_orphans()
        finally:
            os.kill(engine, signal.SIGKILL)
            adopter.stdin.close()
    assert (f"pid {engine} (VLLM::EngineCore 1000)" in found.summary) is orphaned
    if orphaned:
        assert found.status == "warn"


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
    log = LogFile(file, 7)
    tail = Tail(log)
    with file.open("ab", buffering=0) as stream:
        assert tail.read() == []
        stream.write(b"one\r\ntwo\rthr")
        assert tail.read() == ["one", "two"]
        stream.write(b"ee\n")
        assert tail.read() == ["three"]
        stream.write(b"x" * 200_000)
        assert sum(map(len, tail.read())) == 200_000
    assert tail.is_at_end()
    assert log.lines_before() == 1
    assert log.own_part().read(9) == b"one\r\ntwo\r"


@pytest.mark.parametrize("after", [b"short\n", b"far longer than all that was there before it was cut short\n"])
def test_a_log_that_is_cut_short_is_read_from_its_new_beginning(tmp_path, after):
    file = tmp_path / "log"
    file.write_bytes(b"an earlier run\n")
    log = LogFile(file, 15)
    tail = Tail(log)
    with file.open("ab", buffering=0) as stream:
        stream.write(b"of this run\n")
        assert tail.read() == ["of this run"]
        os.truncate(file, 0)
        stream.write(after)
        assert tail.read() == [after.decode().strip()]
        assert (log.start, log.own_part().read()) == (0, after)
        os.truncate(file, 0)
        stream.write(b"again " + after)
        assert tail.read() == ["again " + after.decode().strip()]


def test_a_tail_that_is_left_far_behind_gives_up_the_middle(tmp_path):
    file = tmp_path / "log"
    file.touch()
    tail = Tail(LogFile(file, 0))
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(0, 2)
        stream.write(b"\nthe end\n")
    rounds = 0
    last = []
    while not tail.is_at_end():
        last, rounds = tail.read(), rounds + 1
    assert last[-1] == "the end"
    assert rounds < 4


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("--api-key", "K", "--port", "1"), ("--api-key", "***", "--port", "1")),
        (("--api-key=K",), ("--api-key=***",)),
        (("--api_key", "K1", "K2", "-tp", "2"), ("--api_key", "***", "***", "-tp", "2")),
        (("--hf-token=K", "--api-key", "K"), ("--hf-token=***", "--api-key", "***")),
        (("--api-server-count", "2", "key"), ("--api-server-count", "2", "key")),
    ],
)
def test_secret_arguments_are_hidden(arguments, shown):
    assert hidden(arguments) == shown


def test_secret_arguments_are_left_out_of_what_is_written():
    kept, variables = left_out(("--port", "1", "--api-key", "a", "b", "--hf_token=c", "--seed", "0"))
    assert kept == ("--port", "1", "--seed", "0")
    assert variables == ("VLLM_API_KEY", "HF_TOKEN")
    assert secrets_of(("--api-key", "a", "b", "--hf_token=c")) == ("a", "b", "c")


@given(st.binary(max_size=60), st.lists(st.integers(0, 80), max_size=6))
def test_a_stream_never_shows_the_key_however_it_is_cut(noise, cuts):
    key = b"abcabcd"
    whole = noise + key + noise[:5] + key[:4] + key + noise
    mask = Mask(["abcabcd"])
    places = sorted({min(one, len(whole)) for one in cuts})
    parts = [whole[begin:end] for begin, end in zip([0, *places], [*places, len(whole)], strict=True)]
    shown = b"".join([*(mask.feed(part) for part in parts), mask.rest()])
    assert key not in shown
    assert shown == whole.replace(key, b"***")


def test_the_copy_of_a_log_ends_where_the_reader_stalls_and_tells_what_was_not_shown(tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"x" * 1_000_000)
    read, write = os.pipe()
    before = threading.active_count()
    copy = LogCopy(LogFile(file, 0), write, Mask([]))
    unseen = copy.close(0.2)
    assert 1_000_000 - 3 * 65536 <= unseen <= 1_000_000
    assert threading.active_count() == before + 1, "one thread waits for the reader, and nobody for it"
    os.close(read)  # the thread ends with the pipe
    wait_until(lambda: threading.active_count() == before, "the thread ends")
    os.close(write)


def test_the_copy_of_a_log_is_whole_where_the_reader_is_slow(tmp_path):
    file = tmp_path / "log"
    file.write_bytes(os.urandom(300_000))
    read, write = os.pipe()
    copy = LogCopy(LogFile(file, 0), write, Mask([]))
    taken: list[bytes] = []

    def take() -> None:
        while chunk := os.read(read, 10_000):
            taken.append(chunk)
            time.sleep(0.002)

    reader = threading.Thread(target=take)
    reader.start()
    assert copy.close(5) == 0
    os.close(write)
    reader.join()
    os.close(read)
    assert b"".join(taken) == file.read_bytes()


class _Stalled:
    """A listener that takes one line and then waits."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.taken: list[str] = []

    def note(self, text: str) -> None:
        self.taken.append(text)
        self.go_on.wait()


def test_a_stalled_listener_holds_nobody_up_and_loses_counted_lines():
    listener = _Stalled()
    relay = Relay(listener, Mask(["the-key"]))
    for number in range(5000):
        relay.note(f"the-key {number}")
    relay.close(0.1)
    assert listener.taken == ["*** 0"]
    listener.go_on.set()
    wait_until(lambda: len(listener.taken) >= 1000, "the lines that were kept are told")
