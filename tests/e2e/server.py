"""A real `vllm serve` process of the CPU build, with the plugin and the harness on its path."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
HARNESS = Path(__file__).with_name("harness")
START_TIMEOUT = 240.0


class Server:
    """A server in a process group of its own; a context manager."""

    def __init__(self, python: Path, checkpoint: Path, log: Path, *options: str, **environment: str) -> None:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port = chosen.getsockname()[1]
        self.log = log
        cache = log.parent / "cache"
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "DSA_"))},
            "PYTHONPATH": os.pathsep.join(map(str, (HARNESS, REPOSITORY, REPOSITORY / "kernels"))),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "XDG_CACHE_HOME": str(cache),
            "VLLM_CACHE_ROOT": str(cache),
            **environment,
        }
        command = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", "tiny"]
        command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", *options]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
            )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def wait_until_ready(self) -> None:
        """Return once the server answers.

        Raises:
            AssertionError: it ended or took too long; the message holds the end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.text()[-4000:]}")
            try:
                self._get("/health")
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise AssertionError(f"the server was not ready within {START_TIMEOUT:.0f} s:\n{self.text()[-4000:]}")

    def text(self) -> str:
        """Return what the server has printed so far."""
        return self.log.read_text(errors="replace")

    def complete(self, prompts: list[list[int]], max_tokens: int) -> list[dict[str, Any]]:
        """Send one request per prompt, all at once; return greedy tokens and their log-probabilities."""
        with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
            return list(pool.map(lambda prompt: self._complete(prompt, max_tokens), prompts))

    def metric(self, name: str) -> float:
        """Return the sum of a Prometheus counter over its labels."""
        lines = self._get("/metrics").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def wait_for_metric(self, name: str, least: float, timeout: float = 30.0) -> None:
        """Return once a counter has reached a value: the server publishes them some time after it answers.

        Raises:
            AssertionError: it did not.
        """
        deadline = time.monotonic() + timeout
        while (seen := self.metric(name)) < least:
            assert time.monotonic() < deadline, f"{name} is {seen}, at least {least} was expected"
            time.sleep(0.5)

    def _complete(self, prompt: list[int], max_tokens: int) -> dict[str, Any]:
        body = {
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "logprobs": 1,
            "ignore_eos": True,
            "return_tokens_as_token_ids": True,
        }
        answer = json.loads(self._get("/v1/completions", json.dumps(body).encode()))
        found = answer["choices"][0]["logprobs"]
        tokens = [int(token.removeprefix("token_id:")) for token in found["tokens"]]
        return {"tokens": tokens, "logprobs": found["token_logprobs"]}

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                content: bytes = response.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} answered {error.code}: {error.read().decode()[:2000]}") from None
        return content
