"""`dsa-doctor cache` and the switches, in real processes; the real selector, kept once and told to be kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DSA_DOCTOR_CACHE": "on", "XDG_CACHE_HOME": str(home), "COLUMNS": "100", **variables}
    return subprocess.run(
        [sys.executable, "-m", "dsa_doctor", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=400,
        cwd="/",
    )


def test_an_empty_cache_is_told_and_cleared(tmp_path: Path) -> None:
    info = run(tmp_path, "cache", "info")
    assert info.returncode == 0
    assert f"folder   {tmp_path}/dsa-doctor/answers\nentries  0\n" in info.stdout
    assert "in use   yes" in info.stdout
    assert "in use   no (DSA_DOCTOR_CACHE=off)" in run(tmp_path, "cache", "info", DSA_DOCTOR_CACHE="off").stdout
    cleared = run(tmp_path, "cache", "clear")
    assert (cleared.returncode, cleared.stdout) == (0, "0 entries removed\n")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_switch_is_wrong_usage(tmp_path: Path) -> None:
    done = run(tmp_path, "check", "--target", "a100", DSA_DOCTOR_CACHE="sometimes")
    assert done.returncode == 2
    assert "DSA_DOCTOR_CACHE='sometimes' is not accepted" in done.stderr


@pytest.mark.slow
def test_a_second_check_is_answered_from_what_the_first_was_told(tmp_path: Path) -> None:
    check = ("check", "GLM-5-FP8", "--target", "a100", "--format", "json")
    first = json.loads(run(tmp_path, *check).stdout)
    second = json.loads(run(tmp_path, *check).stdout)
    assert first.pop("kept_from") is None
    assert second.pop("kept_from") is not None
    assert first == second
    assert "with answers kept from 20" in run(tmp_path, *check[:-2]).stdout
    assert "entries  4," in run(tmp_path, "cache", "info").stdout
    another = json.loads(run(tmp_path, "check", "DeepSeek-V3.2", "--target", "h100", "--format", "json").stdout)
    assert another["kept_from"] is not None  # what the files say is kept, though the question is new
    assert "native" in {layer["state"] for layer in another["layers"]}
    anew = json.loads(run(tmp_path, *check, "--no-cache").stdout)
    assert anew.pop("kept_from") is None
    assert anew == first
    assert run(tmp_path, "cache", "clear").stdout == "4 entries removed\n"


@pytest.mark.slow
def test_a_home_that_cannot_be_written_changes_nothing() -> None:
    check = ("check", "GLM-5-FP8", "--target", "a100", "--format", "json")
    done = run(Path("/proc/nowhere"), *check)
    assert json.loads(done.stdout)["kept_from"] is None
    assert done.stderr == ""
