"""A server that works: found at its address with its key, shown, followed, left running, stopped."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.dsa_doctor.launch.faults import wait_until_nothing_is_left
from tests.dsa_doctor.launch.runs import is_alive, wait_until
from tests.processes import fill

pytestmark = pytest.mark.slow
KEY = "a-key-that-nobody-may-see"


def _stop(one, status: int = 143) -> None:
    one.signal(signal.SIGTERM)
    assert one.wait() == status
    wait_until_nothing_is_left(one)


def test_a_good_server_is_found_ready_asked_and_stopped(run):
    one = run("good").start()
    one.wait_for("smoke prompt: 'Paris, of course.'")
    said = one.said()
    for expected in (
        f": http://127.0.0.1:{one.port}/v1",
        "attention backend: TRITON_MLA_SPARSE",
        "layers: dsa-doctor: TRITON_MLA_SPARSE will serve tiny.",
        "weights: 48.25 GiB per GPU",
        "KV cache: 12.50 GiB per GPU",
        "KV cache: 123,456 tokens",
    ):
        assert expected in said
    stages = [line.split("] ")[1] for line in said.splitlines() if line.startswith("dsa-doctor: [")]
    assert stages == ["load the weights", "prepare the loaded weights", "profile memory", "ready"]
    _stop(one)
    own = one.log.read_bytes().partition(b"run-model\n")[2]
    assert own.startswith(b"INFO Starting to load model tiny...\n")
    assert (one.folder / "out").read_bytes() == own, "the log is passed through as it is"


@pytest.mark.parametrize("place", ["argument", "variable", "file"])
def test_the_server_is_asked_with_its_key_which_is_shown_nowhere(run, tmp_path, place):
    one = run("good", environment={"VLLM_API_KEY": KEY} if place == "variable" else {})
    file = tmp_path / "vllm.yaml"
    file.write_text(f"api-key: {KEY}\n")
    # vLLM reads the file itself; the stand-in does not, and is told through its environment.
    if place == "file":
        one.environment["STAND_IN_KEY"] = KEY
    one.start(*{"argument": ("--api-key", KEY), "file": ("--config", str(file))}.get(place, ()))
    one.wait_for("smoke prompt: 'Paris, of course.'")
    one.wait_for_print("POST /v1/completions")
    assert "non-default args: {'api_key': ['***']}" in one.printed()
    assert KEY in one.log.read_text(), "the server's own log is the server's"
    assert "401" not in one.log.read_text()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with_key = KEY.encode() in process.read_bytes() if process.exists() else False
        assert not with_key or process.parent.name in map(str, [*one.pids("server"), one.process.pid]), process
    _stop(one)
    assert KEY not in one.said() + one.printed()


def test_a_key_that_is_refused_is_said_without_the_key(run):
    one = run("refuses").start("--api-key", KEY)
    one.wait_for("it was asked with the key that it was started with")
    assert "HTTP 401" in one.said()
    _stop(one)
    assert KEY not in one.said() + one.printed()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1"])
def test_other_addresses(run, host):
    if ":" in host:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    one = run("good", host=host).start()
    one.wait_for("smoke prompt: 'Paris, of course.'")
    _stop(one)


def test_a_unix_domain_socket(run, tmp_path):
    path = tmp_path / "vllm.sock"
    one = run("good").start("--uds", str(path))
    one.wait_for("smoke prompt: 'Paris, of course.'")
    assert f"it will listen on the Unix domain socket {path}" in one.said()
    assert ": http://localhost/v1\n" in one.said()
    _stop(one)


def test_a_unix_domain_socket_that_is_there_is_found_before_the_start(run, tmp_path):
    path = tmp_path / "vllm.sock"
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(str(path))
        holder.listen()
        one = run("good", options={"force": False}).start("--uds", str(path))
        assert one.wait() == 32
    assert f"and pid {os.getpid()}" in " ".join(one.said().split())
    assert one.pids() == []


def test_tls_with_a_certificate_of_its_own(run, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=llm.example.org"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate")
    one = run("good").start("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--api-key", KEY)
    one.wait_for("smoke prompt: 'Paris, of course.'")
    assert f"https://127.0.0.1:{one.port}/v1" in one.said()
    _stop(one)


def test_a_log_that_is_used_again_is_explained_from_this_run_on(run):
    first = run("dies loading").start()
    assert first.wait() == 3
    assert "DSA201" in first.said()
    lines = first.log.read_bytes().count(b"\n")
    second = run("dies at once").start()
    assert second.wait() == 7
    assert "DSA201" not in second.said()
    assert "its end says: (empty)" in second.said()
    more = second.said().partition("more: ")[2].splitlines()[0]
    shown = subprocess.run(more.partition(" | ")[0], shell=True, capture_output=True, check=True)
    assert shown.stdout == b"", "the command that is named shows this run's part"
    third = run("dies loading").start()
    assert third.wait() == 3
    assert f"DSA201 (attention), log line {lines + 1 + 5}" in third.said(), "lines are those of the file"


def test_a_server_that_writes_without_end_is_followed_in_bounded_memory(run):
    """Nobody reads the output. 600 MB of log stay on the disk; the file system is what remembers them."""
    read, write = os.pipe()
    one = run("talks", out=write, environment={"TALK": str(600 << 20)}).start()
    os.close(write)
    one.wait_for("smoke prompt: 'Paris, of course.'")
    one.wait_until((one.pids_folder / "talked").exists, "everything is written")
    time.sleep(1)  # what would pile up piles up now
    status = Path(f"/proc/{one.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) >> 10
    one.signal(signal.SIGINT)
    assert one.wait() == 130
    os.close(read)
    assert peak < 300, f"{peak} MiB"
    assert "bytes not shown" in one.said()
    wait_until_nothing_is_left(one)


def test_readiness_the_time_limit_and_signals_work_while_both_streams_stall(run):
    read, write = os.pipe()
    fill(write)
    one = run("good", out=write, err=write).start()
    os.close(write)
    wait_until((one.pids_folder / "asked").exists, "it is ready, and asked")
    before = time.monotonic()
    one.signal(signal.SIGINT)
    assert one.wait() == 130
    assert time.monotonic() - before < 20
    os.close(read)
    wait_until_nothing_is_left(one)


def test_detached_it_stays_and_can_be_stopped(run):
    one = run("good", options={"detach": True}).start()
    assert one.wait() == 0
    assert len(one.left()) == 1
    supervisor = int(one.said().split("to stop it: kill ")[1].split()[0])
    time.sleep(1)
    assert is_alive(supervisor), "it outlives dsa-doctor"
    assert sum(psutil.Process(supervisor).cpu_times()[:2]) < 0.5, "and waits without turning in circles"
    os.kill(supervisor, signal.SIGTERM)
    wait_until_nothing_is_left(one)


def test_a_signal_that_is_ignored_stays_so(run):
    """`nohup dsa-doctor run-model`: the terminal's end is nothing to it."""
    one = run("good").start(before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    one.wait_for("smoke prompt: ")
    one.signal(signal.SIGHUP)
    time.sleep(0.5)
    assert one.process.poll() is None
    _stop(one)


def test_what_follows_the_dashes_comes_last_and_wins(run):
    one = run("good", options={"smoke": False}).start("--max-model-len", "32", "--mystery", "a b")
    one.wait_for("ready after")
    arguments = (one.pids_folder / "arguments").read_text().splitlines()
    assert arguments[-4:] == ["--max-model-len", "32", "--mystery", "a b"]
    assert "smoke prompt" not in one.said()
    environment = json.loads((one.pids_folder / "environment").read_text())
    assert "VLLM_ATTENTION_BACKEND" not in environment
    _stop(one)
