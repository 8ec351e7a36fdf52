"""The whole command: its check, its plan and the launch; and that no form of its output shows a key."""

import json
import signal
import subprocess
import sys

import pytest

from tests.dsa_doctor.launch.faults import wait_until_nothing_is_left
from tests.dsa_doctor.launch.runs import STAND_IN

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("told_before")]
KEY = "a-key-that-nobody-may-see"


def test_from_the_check_to_an_answer(run):
    one = run("good", "--max-model-len", "48").start_whole(extra=("--max-model-len", "32", "--api-key", KEY))
    one.wait_for("smoke prompt: 'Paris, of course.'")
    arguments = (one.pids_folder / "arguments").read_text().splitlines()
    assert arguments[-4:] == ["--max-model-len", "32", "--api-key", KEY]
    assert arguments.count("--max-model-len") == 1
    one.signal(signal.SIGINT)
    assert one.wait() == 130
    assert KEY not in one.said() + one.printed()
    wait_until_nothing_is_left(one)


def test_an_unready_model_is_refused_without_force(run):
    one = run("good").start_whole(force=False)
    assert one.wait() == 32
    assert one.pids() == []
    assert "started" not in one.said()


def test_a_missing_model_is_named(run):
    one = run("good").start_whole(model="/nowhere/at/all")
    assert one.wait() == 32 or one.wait() == 2
    assert "'/nowhere/at/all'" in one.printed() + one.said()
    assert one.pids() == []


def test_a_vllm_that_cannot_be_asked_is_a_warning(run):
    one = run("no help", "--no-smoke").start_whole()
    one.wait_for("ready after")
    assert "torch is broken" in one.said()


FORMS = {
    "text": ("--dry-run",),
    "json": ("--dry-run", "--format", "json"),
    "shell": ("--emit", "shell"),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_the_output_shows_a_key(form, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    command = [
        sys.executable, "-m", "dsa_doctor", "run-model", "GLM-5-FP8", "--target", "a100", "--gpus", "8", "--nodes", "2",
        "--force", "--vllm-executable", STAND_IN, *FORMS[form], "--", "--api-key", KEY, f"--hf_token={KEY}-2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    if form == "json":
        assert json.loads(done.stdout)["command"][-3:] == ["--api-key", "***", "--hf_token=***"]
    if form == "shell":
        assert '"${VLLM_API_KEY:?' in done.stdout
