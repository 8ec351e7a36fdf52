"""Processes that end in every way: each case is accounted for, once."""

import os
import sys
from pathlib import Path

import pytest

from dsa_doctor.verify import SelfTest

CHILD = (sys.executable, os.fspath(Path(__file__).with_name("child.py")))


def run(*groups, **options):
    test = SelfTest(groups, command=CHILD, **options)
    return test, list(test.records())


def statuses(records):
    return {record.case: record.status for record in records}


def test_a_crash_and_an_error_that_sticks_leave_the_rest():
    test, records = run("topk")
    assert statuses(records) == {"good": "pass", "aborts": "crash", "sticks": "error", "good too": "pass"}
    assert len(records) == 4
    crash = records[1]
    assert "SIGABRT" in crash.got
    assert "about aborts" in crash.got
    assert crash.provokes == "trouble"
    assert test.machine["gpu"] == "NVIDIA TEST"
    assert "cases" not in test.machine


def test_a_case_that_hangs_is_ended():
    _, records = run("fp8", case_seconds=2.0)
    assert statuses(records) == {"good": "pass", "hangs": "crash", "last": "pass"}
    assert "no answer within 2 s" in records[1].got


def test_a_gate_that_crashes_ends_its_group_and_is_unknown():
    _, records = run("wheel")
    assert statuses(records) == {"loads, or not": "unknown"}


def test_a_process_that_does_not_start_is_said_once_and_without_names():
    _, records = run("mla-flat", "logits")
    broken = [record for record in records if record.group == "mla-flat"]
    assert [record.status for record in broken] == ["crash"]
    assert "could not start" in broken[0].got
    assert f"{Path.home()}/" not in broken[0].got
    assert [record.case for record in records if record.group == "logits"] == ["good"]


def test_a_command_that_is_not_there_is_a_crash_of_its_group():
    test = SelfTest(("logits",), command=("/no/such/python",))
    (record,) = test.records()
    assert record.status == "crash"
    assert record.case == ""


def test_no_device():
    test, records = run("logits", "topk", device="cuda:7")
    assert records == []
    assert test.no_device == "no such GPU"


def test_stopping_early_ends_the_processes():
    test = SelfTest(("fp8",), command=CHILD)
    records = test.records()
    assert next(records).case == "good"
    records.close()
    assert not [child for child in test._children if child.runs]


@pytest.mark.slow
def test_the_real_cases_in_real_processes(monkeypatch, tmp_path):
    """Under Triton's interpreter, from another folder, with a relative PYTHONPATH."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PYTHONPATH", "kernels")
    monkeypatch.setenv("DSA_DOCTOR_VLLM_FOLDER", str(tmp_path))
    test = SelfTest(("fp8", "wheel"), ("fp8", "wheel_topk"), "cpu", quick=True)
    records = list(test.records())
    assert [record.status for record in records if record.op == "fp8"] == ["pass"] * 5
    (wheel,) = [record for record in records if record.op == "wheel_topk"]
    assert wheel.status == "skipped"
    assert test.machine["capability"] == ""
