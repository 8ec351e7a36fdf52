"""run-model serves a DSA model: the tiny GlmMoeDsa on the CPU build, with the plugin's backend and indexer in it."""

import os
import signal
from pathlib import Path

import pytest

from tests.dsa_doctor.launch.runs import Run
from tests.e2e.server import HARNESS, REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EXTRA = ("--enforce-eager", "--dtype", "float32", "--max-model-len", "512")


def test_a_dsa_model_is_served_through_run_model(python: Path, checkpoint: Path, tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        ["--verbose", "--stop-timeout", "20"],
        {
            "PYTHONPATH": os.pathsep.join(map(str, (HARNESS, REPOSITORY, REPOSITORY / "kernels"))),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "HF_HUB_OFFLINE": "1",
        },
        executable=os.fspath(python.with_name("vllm")),
    )
    try:
        # Forced: the CPU build is no GPU that the preflight could judge.
        run.start_whole(os.fspath(checkpoint), EXTRA, force=True)
        run.wait_for("smoke prompt:", seconds=600)
        said = run.said()
        assert "references serve sparse MLA and the indexer" in run.log.read_text(), "the plugin is what serves"
        assert f"http://127.0.0.1:{run.port}/v1" in said
        assert 'POST /v1/completions HTTP/1.1" 200 OK' in run.log.read_text()
        os.kill(run.process.pid, signal.SIGINT)
        assert run.wait(120) == 130
    finally:
        run.clean()
