"""Runs of `dsa-doctor run-model` as real processes, and what they leave."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

STAND_IN = Path(__file__).with_name("stand_in.py")
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 2,
    "hidden_size": 8, "intermediate_size": 8, "vocab_size": 16, "max_position_embeddings": 64,
}  # fmt: skip


def write_model(folder: Path) -> Path:
    """Write a model folder: configuration and one safetensors file that holds an embedding."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    entry = {"dtype": "BF16", "shape": [16, 8], "data_offsets": [0, 256]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(256))
    return folder


def _heed_interrupts() -> None:
    """A test run that a script put into the background ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass
class Run:
    """One run of run-model."""

    folder: Path
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    executable: str | None = os.fspath(STAND_IN)
    port: int = field(default_factory=free_port)
    out: str | None = None

    def __post_init__(self) -> None:
        self.pids_folder = self.folder / "pids"
        self.pids_folder.mkdir(exist_ok=True)
        self.log = self.folder / "server.log"
        self.model = write_model(self.folder / "tiny")

    def start(self, model: str | None = None, extra: tuple[str, ...] = ()) -> "Run":
        """Start it: `--force`, because the stand-in's model is no DSA model."""
        named = [] if self.executable is None else ["--vllm-executable", self.executable]
        log = [] if "--log-file" in self.arguments else ["--log-file", os.fspath(self.log)]
        command = [
            sys.executable, "-m", "dsa_doctor", "run-model", model or os.fspath(self.model), "--port", str(self.port),
            "--host", "127.0.0.1", "--stop-timeout", "3", *named, *log, *self.arguments,
            *(("--", *extra) if extra else ()),
        ]  # fmt: skip
        environment = {**os.environ, "PIDS": os.fspath(self.pids_folder), **self.environment}
        with Path(self.out or self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )
        return self

    def said(self) -> str:
        """Return what dsa-doctor said on standard error."""
        return (self.folder / "err").read_text(errors="replace")

    def printed(self) -> str:
        """Return what went to standard output."""
        return (self.folder / "out").read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until dsa-doctor has said `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < deadline, (
                f"{text!r} was not said in {seconds} s:\n{self.said()}\n{self.printed()}"
            )
            assert self.process.poll() is None or text in self.said(), f"ended early:\n{self.said()}\n{self.printed()}"
            time.sleep(0.05)

    def wait(self, seconds: float = 90) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout=seconds)

    def pids(self, name: str = "") -> list[int]:
        """Return the processes that the stand-in started."""
        return [int(one.name.rpartition("-")[2]) for one in self.pids_folder.glob(f"{name}*-*")]

    def wait_for_processes(self, count: int, seconds: float = 20) -> None:
        """Wait until the stand-in has started that many processes."""
        deadline = time.monotonic() + seconds
        while len(self.pids()) < count:
            assert time.monotonic() < deadline, f"only {self.pids()} after {seconds} s"
            time.sleep(0.05)

    def left(self) -> list[int]:
        """Return the stand-in's processes that still run."""
        return [pid for pid in self.pids() if is_alive(pid)]

    def wait_until_gone(self, seconds: float = 30) -> None:
        """Wait until none of the stand-in's processes runs."""
        deadline = time.monotonic() + seconds
        while self.left():
            assert time.monotonic() < deadline, f"left running: {self.left()}"
            time.sleep(0.1)

    def clean(self) -> None:
        """End everything, whatever the test found."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
