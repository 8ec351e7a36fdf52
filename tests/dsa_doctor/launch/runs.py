"""Runs of `dsa-doctor run-model` as real processes, and what they leave."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import is_alive, wait_until

ROOT = Path(__file__).parents[3]
STAND_IN = Path(__file__).with_name("stand_in.py")
DRIVER = "tests.dsa_doctor.launch.driver"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 2,
    "hidden_size": 8, "intermediate_size": 8, "vocab_size": 16, "max_position_embeddings": 64,
}  # fmt: skip
__all__ = ["Run", "free_port", "is_alive", "wait_until", "write_model"]


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


@dataclass
class Run:
    """One run of run-model: whole, or by the driver, which leaves out the check and the plan."""

    folder: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    executable: str | None = os.fspath(STAND_IN)
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    out: int | None = None
    err: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    within: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pids_folder = self.folder / "pids"
        self.pids_folder.mkdir(exist_ok=True)
        self.log = self.folder / "server.log"
        self.model = write_model(self.folder / "tiny")

    def start(self, *extra: str, before: Any = _heed_interrupts) -> "Run":
        """Start it by the driver; `extra` is what follows `--`."""
        asked = {
            "model": os.fspath(self.model),
            "executable": self.executable,
            "port": self.port,
            "host": self.host,
            "log": os.fspath(self.log),
            "extra": extra,
            "options": {"stop_timeout": 3.0, "smoke_timeout": 60.0, **self.options},
        }
        return self._start([*self.within, sys.executable, "-m", DRIVER, json.dumps(asked)], before)

    def start_whole(self, model: str | None = None, extra: tuple[str, ...] = (), force: bool = True) -> "Run":
        """Start the command itself: `--force`, because the stand-in's model is no DSA model."""
        named = [] if self.executable is None else ["--vllm-executable", self.executable]
        log = [] if "--log-file" in self.arguments else ["--log-file", os.fspath(self.log)]
        command = [
            sys.executable, "-m", "dsa_doctor", "run-model", model or os.fspath(self.model), "--port", str(self.port),
            "--host", self.host, "--stop-timeout", "3", *(["--force"] if force else []), *named, *log, *self.arguments,
            *(("--", *extra) if extra else ()),
        ]  # fmt: skip
        return self._start(command, _heed_interrupts)

    def _start(self, command: list[str], before: Any) -> "Run":
        environment = {**os.environ, "PIDS": os.fspath(self.pids_folder), **self.environment}
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdout=out if self.out is None else self.out,
                stderr=err if self.err is None else self.err,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=before,
            )
        return self

    def said(self) -> str:
        """Return what dsa-doctor said on standard error."""
        return (self.folder / "err").read_text(errors="replace")

    def printed(self) -> str:
        """Return what went to standard output."""
        return (self.folder / "out").read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until dsa-doctor has said `text`."""
        self.wait_until(lambda: text in self.said(), f"{text!r} is said", seconds)

    def wait_for_print(self, text: str, seconds: float = 120) -> None:
        """Wait until `text` is on standard output."""
        self.wait_until(lambda: text in self.printed(), f"{text!r} is printed", seconds)

    def wait_until(self, condition: Any, what: str, seconds: float = 120) -> None:
        """Wait for an event of a run that goes on."""

        def happened() -> bool:
            ended = self.process.poll() is not None  # before the look: what it did last counts
            if condition():
                return True
            assert not ended, f"ended with {self.process.returncode} before {what}:\n{self.said()}\n{self.printed()}"
            return False

        wait_until(happened, f"{what}:\n{self.said()}\n{self.printed()}", seconds)

    def signal(self, number: int) -> None:
        """Send a signal to dsa-doctor."""
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout=seconds)

    def pids(self, name: str = "") -> list[int]:
        """Return the processes that the stand-in started."""
        return [int(one.name.rpartition("-")[2]) for one in self.pids_folder.glob(f"{name}*-*")]

    def wait_for_processes(self, count: int) -> None:
        """Wait until the stand-in has started that many processes."""
        self.wait_until(lambda: len(self.pids()) >= count, f"{count} processes run")

    def left(self) -> list[int]:
        """Return the stand-in's processes that still run."""
        return [pid for pid in self.pids() if is_alive(pid)]

    def wait_until_gone(self, seconds: float = 60) -> None:
        """Wait until none of the stand-in's processes runs."""
        wait_until(lambda: not self.left(), "nothing is left running", seconds)

    def clean(self) -> None:
        """End everything, whatever the test found."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
