"""Asks the real code of a vLLM release something, with a capability in force and without a GPU.

One process a release and test run has imported it; every question is answered by a copy of that process, so what an
answer leaves behind (process groups, registries, patches) does not meet the next. A question names a module and what
its `answer(request, emulated)` is given, and JSON comes back.
"""

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

_ROOT = Path(__file__).parents[1]
_RUN = "PYTEST_RUN_OF_DSA_DOCTOR"
_READY = "ready\n"
_FIRST = "8.0"
"""In force while vLLM is imported; the copies put their own in force, as `Emulation.set_capability` can."""


@contextlib.contextmanager
def of_one_run() -> Iterator[None]:
    """While entered, in pytest's first process, its workers share the processes that have imported a release."""
    folder = tempfile.mkdtemp(prefix="dsa-doctor-")
    os.environ[_RUN] = f"{os.getpid()} {folder}"
    try:
        yield
    finally:
        del os.environ[_RUN]
        shutil.rmtree(folder)  # the processes end when their sockets are gone


def ask(
    module: str,
    folder: Path,
    capability: str,
    request: dict[str, Any],
    *,
    timeout: int = 600,
    lasting: bool = True,
    **variables: str,
) -> Any:
    """Return what `answer` of a module says to a request.

    Args:
        module: its full name.
        folder: a release, see `tests.releases`; its compiled modules are all taken as loadable.
        capability: e.g. "8.0".
        request: as the module reads it.
        timeout: seconds.
        lasting: whether the release will be asked more in this run; a folder that a test made is asked once.
        variables: of the environment of the process that answers.

    Raises:
        AssertionError: there was no answer; with the traceback, or the end of what the process wrote.
    """
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        if lasting:
            owner, _, run = os.environ[_RUN].partition(" ")
            address = Path(run, hashlib.sha256(os.fsencode(folder)).hexdigest()[:16])
            connection = _connected(address, folder, int(owner))
        else:
            address = Path(scratch, "socket")
            stack.callback(_start(address, folder, os.getpid()).kill)
            connection = _connect(address)
        written = Path(scratch, "written")
        asked = {
            "module": module,
            "capability": capability,
            "request": request,
            "timeout": timeout,
            "written": str(written),
            "variables": {
                **dict.fromkeys(("XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TMPDIR"), scratch),
                "VLLM_PLUGINS": "",
                **variables,
            },
        }
        with connection, connection.makefile("rw", encoding="utf-8") as stream:
            stream.write(json.dumps(asked) + "\n")
            stream.flush()
            line = stream.readline()
        answer = json.loads(line) if line else {}
        if "value" not in answer:
            said = written.read_text(encoding="utf-8", errors="replace")[-4000:] if written.is_file() else ""
            raise AssertionError(f"{answer.get('failed') or f'no answer within {timeout} s'}\n{said}")
        return answer["value"]


def _connected(address: Path, folder: Path, owner: int) -> socket.socket:
    """Connect to the process that has imported a release, which whoever comes first starts."""
    with address.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            address.unlink(missing_ok=True)
            _LASTING.append(_start(address, folder, owner))
            return _connect(address)


_LASTING: list[subprocess.Popen[str]] = []
"""Processes that this one has started and does not wait for."""


def _connect(address: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.fspath(address))
    except OSError:
        connection.close()
        raise
    return connection


def _start(address: Path, folder: Path, owner: int) -> subprocess.Popen[str]:
    """Start the process of a release, and wait until it can be asked."""
    written = Path(f"{address}.written")
    with written.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, os.fspath(address), os.fspath(folder), str(owner)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=_ROOT,
            start_new_session=True,
            env={
                **os.environ,
                **dict.fromkeys(("XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT"), os.fspath(address.parent)),
                "HF_HUB_OFFLINE": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "kernels"))),
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_LOGGING_LEVEL": "INFO",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_PLUGINS": "",
            },
        )
    assert process.stdout is not None
    with process.stdout as said:
        ready = said.readline()
    assert ready == _READY, written.read_text(encoding="utf-8", errors="replace")[-4000:]
    return process


def _serve(address: str, folder: str, owner: str) -> None:
    """Import a release, and answer each who connects by a copy of this process, for as long as the owner lives."""
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    owning = psutil.Process(int(owner))
    sys.path[0] = folder
    from dsa_doctor.compat import emulation

    emulated = emulation.install(_FIRST, unloadable="any")
    importlib.import_module("vllm")
    emulated.platform()
    emulated.inspect_models_here()
    for name in ("vllm.engine.arg_utils", "vllm.model_executor.model_loader.utils"):
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(1)
        with ready:
            ready.write(_READY)
        while owning.is_running() and Path(address).exists():
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                if os.fork() == 0:
                    listener.close()
                    connection.settimeout(None)
                    _answer(connection, emulated)


def _answer(connection: socket.socket, emulated: Any) -> None:
    """Answer in this copy, and end it."""
    stream = connection.makefile("rw", encoding="utf-8")
    asked = json.loads(stream.readline())
    signal.alarm(asked["timeout"])
    written = os.open(asked["written"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.update(asked["variables"])
    tempfile.tempdir = None
    try:
        emulated.set_capability(asked["capability"])
        answer = {"value": importlib.import_module(asked["module"]).answer(asked["request"], emulated)}
    except BaseException:
        answer = {"failed": traceback.format_exc()}
    stream.write(json.dumps(answer) + "\n")
    stream.flush()
    os._exit(0)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
