"""`verify` on a GPU, with processes that stand in for it, and its usage errors."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsa_doctor import verify as verification
from dsa_doctor.cli.app import app
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import GpuInventory
from dsa_doctor.probes import gpus
from tests.dsa_doctor import facts_library as library

CHILD = (sys.executable, os.fspath(Path(__file__).parents[1] / "verify" / "child.py"))


@pytest.fixture
def verify(monkeypatch):
    """Run the command on a machine with one GPU, and these groups of the stand-in."""
    inventory = GpuInventory(source="nvml", driver_version="580.1", gpus=(library.A100,))
    monkeypatch.setattr(gpus, "probe", lambda: Observation[GpuInventory].ok(inventory))
    monkeypatch.setattr(verification, "SelfTest", partial(verification.SelfTest, command=CHILD))

    def run(*arguments, groups=("logits", "paged-logits")):
        monkeypatch.setattr(verification, "groups_of", lambda ops: groups)
        return CliRunner().invoke(app, ["verify", *arguments])

    return run


def test_all_passed(verify):
    done = verify()
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "NVIDIA TEST, compute capability 8.0, driver 580.1"
    assert lines[1] == "torch 2, Triton 3.6, CUDA 13"
    assert any(line.split() == ["RESULT", "OP", "CASE", "ERROR", "SECONDS"] for line in lines)
    assert "All 2 cases passed" in done.stdout
    assert "TRITON_OVERRIDE_ARCH" not in done.stdout


def test_failures_name_their_findings_and_fit_80_columns(verify):
    done = verify(groups=("topk", "mla-flat"))
    assert done.exit_code == 3
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert "CRASHED an op: aborts [DSA309]" in done.stdout
    assert "CRASHED mla-flat: did not start [DSA214]" in done.stdout
    assert "3 of 5 cases failed" in done.stdout
    assert "DSA309: An indexer op of dsa-doctor computes wrongly on this GPU." in done.stdout
    assert "\x1b" not in done.stdout


def test_an_overridden_arch_is_said(verify, monkeypatch):
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm80")
    assert "TRITON_OVERRIDE_ARCH=sm80: Triton compiles as for sm80" in verify().stdout


def test_emulation_reaches_the_processes_of_the_test_and_is_said(verify, monkeypatch):
    monkeypatch.setenv("DSA_KERNELS_EMULATE", "")  # put back afterwards
    monkeypatch.delenv("TRITON_OVERRIDE_ARCH", raising=False)
    done = verify("--emulate", "a100")
    assert done.exit_code == 0, done.output
    assert "--emulate sm80: PTX whose own target is sm80" in done.stdout
    assert "not a run on a GPU of sm80" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--emulate", "ampere"), "--emulate 'ampere' is not known"),
        (("--emulate", "sm75"), "accepted: one of sm80"),
        (("--emulate", "sm80", "--target", "a100"), "--emulate"),
    ],
)
def test_an_emulation_that_cannot_be_is_wrong_usage(verify, monkeypatch, arguments, message):
    monkeypatch.setenv("DSA_KERNELS_EMULATE", "")
    done = verify(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_an_emulation_beside_another_override_is_wrong_usage(verify, monkeypatch):
    monkeypatch.setenv("DSA_KERNELS_EMULATE", "")
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm86")
    done = verify("--emulate", "sm80")
    assert done.exit_code == 2
    assert "TRITON_OVERRIDE_ARCH is 'sm86'" in " ".join(done.stderr.split())


def test_unknown_is_not_verified(verify):
    done = verify(groups=("logits", "wheel"))
    assert done.exit_code == 3
    assert "Not verified: 1 of 2 cases could not be judged" in done.stdout


def test_json(verify):
    done = verify("--format", "json", "--quick", groups=("topk",))
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert report["machine"]["driver"] == "580.1"
    assert report["machine"]["quick"] is True
    assert report["machine"]["triton_override_arch"] == os.environ.get("TRITON_OVERRIDE_ARCH", "")
    assert report["counts"] == {"pass": 2, "fail": 0, "error": 1, "crash": 1, "unknown": 0, "skipped": 0}
    assert report["findings"] == ["DSA309"]
    assert {case["case"]: case["finding"] for case in report["cases"]} == {
        "good": "",
        "aborts": "DSA309",
        "sticks": "DSA309",
        "good too": "",
    }


def test_no_gpu_names_both_ways_on(verify, monkeypatch):
    done = verify("--device", "7")
    assert done.exit_code == 2
    assert "no such GPU" in done.stderr
    monkeypatch.setattr(gpus, "probe", lambda: Observation[GpuInventory].absent("no driver"))
    done = verify()
    assert done.exit_code == 2
    assert "no driver" in done.stderr
    assert "machine with the GPU" in done.stderr
    assert "--target a100" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("extra", [("--op", "topk"), ("--device", "1"), ("--quick",)])
def test_what_runs_cannot_be_chosen_with_a_target(extra):
    done = CliRunner().invoke(app, ["verify", "--target", "a100", *extra])
    assert done.exit_code == 2
    assert extra[0] in done.stderr


def test_an_op_that_is_not_known_names_the_known_ones():
    done = CliRunner().invoke(app, ["verify", "--op", "flash"])
    assert done.exit_code == 2
    assert (
        "sparse_mla, indexer_logits, topk, indexer_topk, fp8, kpool, compressor, mhc, engram, wheel_topk" in done.stderr
    )


def test_help_names_every_op():
    from dsa_doctor.verify.plan import OPS

    text = CliRunner().invoke(app, ["verify", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(op.name in text for op in OPS)
