"""action.yml and its script, run as the runner runs them: with GITHUB_* and INPUT_* set."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.dsa_doctor import facts_library as library

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
CHECK = ACTION["runs"]["steps"][1]


@pytest.fixture
def runner(tmp_path):
    """A workspace, a tool on PATH that is this checkout's dsa-doctor, and the runner's files."""
    tools = tmp_path / "tools"
    tools.mkdir()
    tool = tools / "dsa-doctor"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dsa_doctor "$@"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "a100.json").write_text(library.a100_facts().model_dump_json())
    (workspace / "h100.json").write_text(library.h100_facts().model_dump_json())
    (workspace / "requirements.txt").write_text("vllm==0.32.0\n")

    def run(**inputs):
        """Run the step with the defaults of action.yml, replaced by `inputs`."""
        assert set(inputs) <= set(ACTION["inputs"])
        values = {name: str(inputs.get(name, entry["default"])) for name, entry in ACTION["inputs"].items()}
        variables = {}
        for name, expression in CHECK["env"].items():
            match = re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", expression)
            variables[name] = values[match[1]] if match else str(ROOT)
        for name in ("summary.md", "output"):
            (tmp_path / name).write_text("")
        environment = {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(workspace),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            **variables,
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", CHECK["run"]],
            capture_output=True,
            text=True,
            cwd=workspace,
            env=environment,
            timeout=120,
        )
        outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
        return done, outputs, (tmp_path / "summary.md").read_text()

    run.workspace = workspace
    return run


def test_a_failing_fleet_fails_the_step_with_annotations_summary_and_reports(runner):
    done, outputs, summary = runner(facts="a100.json", models="GLM-5-FP8", manifest="requirements.txt")
    assert done.returncode == 24
    assert outputs == {"exit-code": "24", "passed": "false"}
    annotations = done.stdout.splitlines()
    assert all(re.match(r"::(error|warning|notice) file=requirements.txt,line=1,title=", line) for line in annotations)
    assert sum(line.startswith("::error ") for line in annotations) == 3
    assert "# dsa-doctor" in summary
    assert ElementTree.parse(runner.workspace / "dsa-doctor.junit.xml").getroot().get("failures") == "4"
    assert (runner.workspace / "dsa-doctor.sarif").exists()
    assert (runner.workspace / "dsa-doctor.html").exists()


def test_a_passing_fleet(runner):
    done, outputs, _ = runner(facts="h100.json", outputs="")
    assert done.returncode == 0, done.stderr
    assert outputs == {"exit-code": "0", "passed": "true"}
    assert not list(runner.workspace.glob("dsa-doctor.*"))


def test_the_exit_code_can_be_left_to_later_steps(runner):
    done, outputs, _ = runner(facts="a100.json", fail="false", outputs="")
    assert done.returncode == 0
    assert outputs == {"exit-code": "24", "passed": "false"}


def test_wrong_usage_fails_whatever_was_asked(runner):
    done, outputs, _ = runner(facts="nowhere.json", fail="false", outputs="")
    assert done.returncode == 2
    assert outputs["passed"] == "false"
    assert "--facts nowhere.json: cannot be read" in done.stderr
    done, outputs, _ = runner(facts="a100.json", fail="flase", outputs="")
    assert done.returncode == 2
    assert "input fail must be true or false" in done.stdout


def test_several_values_an_input(runner):
    done, _, summary = runner(
        facts="a100.json\nh100.json\n", targets="a100 h100", strict="true", outputs="json=out.json"
    )
    assert done.returncode & 24 == 24
    assert "h100.json" in summary
    assert (runner.workspace / "out.json").exists()


@pytest.mark.parametrize("name", ["models", "targets", "policy", "facts", "manifest", "outputs", "wheel", "python"])
def test_an_input_cannot_run_anything(runner, name):
    attack = '"; touch pwned; $(touch pwned) `touch pwned` --facts=/etc/hostname'
    done, _, _ = runner(**{"facts": "h100.json", "outputs": "", name: attack})
    assert done.returncode != 0
    assert not (runner.workspace / "pwned").exists()


def test_the_tool_is_missing(runner, monkeypatch):
    script = [sys.executable, str(ROOT / "ci" / "github_action.py")]
    done = subprocess.run(script, capture_output=True, text=True, env={"PATH": "/nonexistent"})
    assert done.returncode == 1
    assert "::error title=dsa-doctor::dsa-doctor is not installed" in done.stdout


def test_the_action_file_hangs_together():
    inputs = set(ACTION["inputs"])
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == inputs, "every input is used, and every use is an input"
    for step in ACTION["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an expression in a script would be run"
    assert {"exit-code", "passed"} == set(ACTION["outputs"])
    script = (ROOT / "ci" / "github_action.py").read_text()
    assert set(re.findall(r"INPUT_\w+", script)) - {"INPUT_"} == {
        name for name in CHECK["env"] if name.startswith("INPUT_")
    }
