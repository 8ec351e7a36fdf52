"""What code of another environment is given: few variables, and no network where the system can take it away."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dsa_doctor.probes import child
from dsa_doctor.probes.child import run_child
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.isolation import is_needed, without_network

SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "GH_TOKEN", "OPENAI_API_KEY",
    "VLLM_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK", "KUBECONFIG", "PIP_INDEX_URL", "HTTPS_PROXY",
    "NETRC", "PATH_TO_SECRET", "MY_HOME", "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD",
    "CI_JOB_TOKEN", "ACTIONS_RUNTIME_TOKEN",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_what_may_hold_a_secret_or_code_is_not_inherited(name):
    assert not is_needed(name)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_HOME", "TMPDIR", "LC_ALL", "NVIDIA_VISIBLE_DEVICES"]
)
def test_what_an_import_needs_is_inherited(name):
    assert is_needed(name)


@pytest.fixture
def spy(tmp_path, monkeypatch):
    """A child script that answers with its variables and whether it can reach a listener of this machine."""
    (tmp_path / "spy.py").write_text(
        "import json, os, socket, sys\n"
        "port = json.load(sys.stdin)['port']\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', port), timeout=5).close()\n"
        "    reached = True\n"
        "except OSError:\n"
        "    reached = False\n"
        "with os.fdopen(int(os.environ['DSA_DOCTOR_ANSWER_FD']), 'w') as stream:\n"
        "    json.dump({'names': sorted(os.environ), 'reached': reached}, stream)\n"
    )
    monkeypatch.setattr(child, "CHILDREN", tmp_path)


def test_a_foreign_child_sees_no_secret_and_no_network(spy, monkeypatch):
    import socket

    for name in SECRETS:
        if name != "LD_PRELOAD":  # the loader of this test's own children would look for it
            monkeypatch.setenv(name, "secret")
    foreign = Environment(python=Path(sys.executable), search_path=())
    own = replace(foreign, own=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = {"port": listener.getsockname()[1]}

        def answer(environment):
            result = run_child(
                "spy.py",
                asked,
                python=environment.python,
                timeout=60,
                environment=environment.hidden_settings(),
                foreign=not environment.own,
            )
            assert result.status == "answered", result.cause
            return result.answer

        inside, outside = answer(own), answer(foreign)
    assert set(inside["names"]) >= set(SECRETS) - {"LD_PRELOAD", "PYTHONSTARTUP"}
    assert not set(outside["names"]) & set(SECRETS)
    assert "PATH" in outside["names"]
    assert inside["reached"]
    assert outside["reached"] is not bool(without_network())


def test_a_system_that_cannot_take_the_network_away_runs_it_all_the_same(monkeypatch, tmp_path):
    without_network.cache_clear()
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert without_network() == ()
    (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    without_network.cache_clear()
    assert without_network() == ()
    without_network.cache_clear()
