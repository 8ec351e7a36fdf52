"""`dsa-doctor bench` on a machine that cannot measure: one clear sentence, exit code 2, nothing on standard output."""

import pytest
import torch
from typer.testing import CliRunner

from dsa_doctor.bench import gather
from dsa_doctor.cli.app import app


def run(*words):
    return CliRunner().invoke(app, ["bench", *words])


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as torch.cuda says."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Sample GPU")


def test_without_a_gpu_it_says_what_works_instead(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run()
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "bench measures on a CUDA GPU" in result.stderr
    assert "dsa-doctor verify --target a100" in result.stderr


def test_the_interpreter_is_no_gpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET=1" in run().stderr


def test_a_gpu_below_the_kernels_is_refused(gpu):
    result = run()
    assert result.exit_code == 2
    assert "Sample GPU is below compute capability 8.0" in result.stderr


def test_an_override_that_is_no_architecture_is_refused(gpu, monkeypatch):
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "ampere")
    result = run()
    assert result.exit_code == 2
    assert "TRITON_OVERRIDE_ARCH: target: got 'ampere'" in result.stderr


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(gather.importlib.util, "find_spec", lambda name: None)
    assert "bench needs torch, which is not installed" in run().stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["GLM-6"], "is neither a known model nor an existing path"),
        (["-tp", "7"], "--tensor-parallel-size 7 does not divide"),
        (["--context", "99999999"], "--context 99999999 is more than"),
    ],
)
def test_wrong_usage_is_said_before_a_gpu_is_looked_for(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("words", [["-b", "0"], ["--speculative-tokens", "9"], ["--prefill-tokens", "0"]])
def test_numbers_out_of_range_are_refused(words):
    assert run(*words).exit_code == 2
