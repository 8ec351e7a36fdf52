"""Asks the real code of a vLLM release something in a process of its own, with a capability in force and without a GPU.

A module that asks is its own child: `ask` runs it as a script, which hands `reply` a function that answers. Request on
standard input, one JSON line on standard output.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MARK = "answer of the child: "
_ROOT = Path(__file__).parents[1]


def ask(
    module: str, folder: Path, capability: str, *, timeout: float, plugins: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """Run `module`, which calls `reply`, and return its answer.

    Args:
        module: name of the module; `more` are keys of its request.
        folder: a release, see `tests.releases`; its compiled modules are all taken as loadable.
        capability: e.g. "8.0".
        timeout: seconds.
        plugins: names of vLLM's general plugins to load.
    """
    (answer,) = ask_all(module, folder, capability, [more], timeout=timeout, plugins=plugins)
    assert "failed" not in answer, answer["failed"]
    return dict(answer["value"])


def ask_all(
    module: str,
    folder: Path,
    capability: str,
    requests: list[dict[str, Any]],
    *,
    timeout: float,
    plugins: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """As `ask`, of several requests: vLLM is imported once, and each is answered by a copy of that process.

    Returns:
        For each request {"value": the answer} or {"failed": the traceback}.
    """
    from dsa_doctor.compat import emulation

    request = {
        "emulation": emulation.__file__, "folder": str(folder), "capability": capability, "requests": requests,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        variables = {
            **dict.fromkeys(("XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TMPDIR"), scratch),
            "VLLM_PLUGINS": ",".join(plugins),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", module],
            cwd=_ROOT,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **variables},
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    assert lines, done.stdout[-3000:] + done.stderr[-4000:]
    return list(json.loads(lines[-1].removeprefix(_MARK)))


def reply(answer: Callable[[dict[str, Any], Any], dict[str, Any]]) -> None:
    """Answer the requests on standard input with the release and the capability in force, and end the process."""
    request = json.load(sys.stdin)
    sys.path[0] = request["folder"]
    spec = importlib.util.spec_from_file_location("dsa_doctor_emulation", request["emulation"])
    assert spec is not None
    assert spec.loader is not None
    emulation = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = emulation
    spec.loader.exec_module(emulation)
    emulated = emulation.install(request["capability"], unloadable="any")
    emulated.platform()
    emulated.inspect_models_here()
    emulated.assume_deep_gemm()
    for name in ("vllm.engine.arg_utils", "vllm.model_executor.model_loader.utils"):
        importlib.import_module(name)
    answers = [_answer_in_a_copy(answer, one, emulated) for one in request["requests"]]
    sys.stdout.write(f"\n{_MARK}{json.dumps(answers)}\n")
    sys.stdout.flush()
    os._exit(0)


def _answer_in_a_copy(
    answer: Callable[[dict[str, Any], Any], dict[str, Any]], request: dict[str, Any], emulated: Any
) -> dict[str, Any]:
    """What is constructed for one request (process groups, caches, registries) does not meet the next."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        sys.stdout.flush()
        if (copy := os.fork()) == 0:
            try:
                found = {"value": answer(request, emulated)}
            except BaseException:
                found = {"failed": traceback.format_exc()}
            json.dump(found, file)
            file.flush()
            os._exit(0)
        os.waitpid(copy, 0)
        file.seek(0)
        return dict(json.loads(file.read() or '{"failed": "the copy ended without an answer"}'))
