"""The whole way from a name to a plan, an emitted form or a refusal, on the installed vLLM."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.dsa_doctor.launch.runs import STAND_IN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("told_before"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM: pip install -e '.[vllm,test]'"),
]


def _run(tmp_path, *arguments):
    command = [sys.executable, "-m", "dsa_doctor", "run-model", "--vllm-executable", os.fspath(STAND_IN), *arguments]
    environment = {**os.environ, "PIDS": os.fspath(tmp_path), "COLUMNS": "100"}
    environment.pop("DSA_DOCTOR_PLUGIN", None)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_one_node_is_refused_and_two_are_emitted(tmp_path):
    refused = _run(tmp_path, "GLM-5-FP8", "--target", "a100", "--gpus", "8", "--dry-run")
    out, said = refused.stdout, refused.stderr
    assert refused.returncode == 32, out + said
    assert "It does not fit: " in out
    assert "--nodes 2 (tensor parallel 8, pipeline parallel 2)" in out
    assert "--reasoning-parser is left out: this vLLM does not know it" in said
    assert not [line for line in out.splitlines() if line != line.rstrip()], "no trailing blanks"
    emitted = _run(tmp_path, "GLM-5-FP8", "--target", "a100", "--gpus", "8", "--nodes", "2", "--emit", "shell")
    assert emitted.returncode == 0, emitted.stderr
    script = emitted.stdout
    assert script.startswith("#!/usr/bin/env bash\n"), "data alone on standard output"
    assert "--attention-backend TRITON_MLA_SPARSE" in script
    assert "--tensor-parallel-size 8" in script
    assert os.fspath(STAND_IN) not in script, "another machine's vllm is not here"
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_the_seed_run_is_planned_as_data(tmp_path):
    run = _run(
        tmp_path, "GLM-5-FP8", "--target", "a800", "--gpus", "8", "--dry-run", "--format", "json", "--cpu-offload-gb",
        "40", "--max-model-len", "1024", "--gpu-memory-utilization", "0.92", "--", "--max-num-seqs", "16",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    content = json.loads(run.stdout)
    assert content["plan"]["fits"] is True
    assert content["verdict"]["exit_code"] == 0
    assert content["command"][-2:] == ["--max-num-seqs", "16"]
    assert content["plan"]["sequences"] == 16
    assert content["plan"]["host_bytes"] == 8 * 40 * 2**30
    misfit = _run(tmp_path, "GLM-5-FP8", "-t", "a800", "--gpus", "8", "--dry-run", "-f", "json")
    content = json.loads(misfit.stdout)
    assert misfit.returncode == 32
    assert content["plan"]["fits"] is False
    assert [one["what"].split(" ")[0] for one in content["shapes"]] == ["--nodes", "--cpu-offload-gb"]
