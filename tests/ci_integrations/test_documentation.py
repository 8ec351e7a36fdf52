"""The commands, the policy and the promises of docs/ci-gate.md and docs/output-formats.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dsa_doctor.policy import load_policy
from dsa_doctor.render.formats import ReportFormat
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.reports import facts_for

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("ci-gate.md", "output-formats.md")]
COMMANDS = [
    line
    for page in PAGES
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dsa-doctor ")
]


@pytest.fixture
def folder(tmp_path):
    models, targets = ("GLM-5-FP8", "DeepSeek-V3.2"), ("a100", "l40s", "h100")
    answers = tuple(facts_for(model, target).selector.value.answers[0] for model in models for target in targets)
    (tmp_path / "fleet.json").write_text(library.facts(answers=answers, plugin=True).model_dump_json())
    for name, plugin in {"a100": False, "before": False, "after": True}.items():
        (tmp_path / f"{name}.json").write_text(library.a100_facts(plugin=plugin).model_dump_json())
    (tmp_path / "requirements.txt").write_text("vllm==0.32.0\n")
    return tmp_path


def test_there_are_commands():
    assert len(COMMANDS) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(folder, command):
    _, *arguments = shlex.split(command)
    if "--facts" not in arguments:
        arguments += ["--facts", "fleet.json"]  # this machine's vLLM takes half a minute, and is judged in test_fleet
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_STEP_SUMMARY"}
    done = subprocess.run(
        [sys.executable, "-m", "dsa_doctor", *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode in {0, 24}, done.stderr
    for path in re.findall(r"--output \w+=(\S+)", command):
        assert (folder / path).stat().st_size > 0


def test_the_policy_of_the_page_is_the_example_and_is_read(tmp_path):
    (page,) = re.findall(r"```toml\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    path = tmp_path / "dsa-doctor.toml"
    path.write_text(page)
    example = load_policy(ROOT / "examples" / "dsa-doctor.toml")
    assert load_policy(path) == example
    assert example.suppressions[0].reason


def test_every_format_and_every_key_is_described():
    for form in ReportFormat:
        assert f"| `{form.value}` |" in PAGES[1].read_text()
    for key in ("models", "targets", "required-layers", "allowed-states", "strict", "suppress"):
        assert f"`{key}`" in PAGES[0].read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
