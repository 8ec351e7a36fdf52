"""The GitLab template, the workflow and the Kubernetes example: their own commands, run."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from dsa_doctor.policy import load_policy
from tests.dsa_doctor import facts_library as library

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def shell(tmp_path):
    """Run a script in a folder with facts, with `dsa-doctor` and a recording `python3` on PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in {
        "dsa-doctor": f'exec "{sys.executable}" -m dsa_doctor "$@"',
        "python3": f'echo "$@" >> "{tmp_path}/python3.log"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(stat.S_IRWXU)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "a100.json").write_text(library.a100_facts().model_dump_json())

    def run(script, **variables):
        environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), **variables}
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script], capture_output=True, text=True, cwd=folder, env=environment
        )

    run.folder = folder
    run.log = tmp_path / "python3.log"
    return run


def test_the_gitlab_job_writes_the_reports_it_uploads(shell):
    (job,) = (
        value for name, value in yaml.safe_load((EXAMPLES / "gitlab/dsa-doctor.gitlab-ci.yml").read_text()).items()
    )
    variables = {**job["variables"], "DSA_DOCTOR_ARGS": "--facts a100.json", "DSA_DOCTOR_MODELS": "GLM-5-FP8"}
    done = shell("\n".join([*job["before_script"], *job["script"]]), **variables)
    assert done.returncode == 24, done.stderr
    assert shell.log.read_text() == "-m pip install --quiet dsa-doctor\n"
    for path in job["artifacts"]["paths"]:
        assert (shell.folder / path).stat().st_size > 0
    report = ElementTree.parse(shell.folder / job["artifacts"]["reports"]["junit"]).getroot()
    assert report.get("failures") == "4"


def test_the_init_container_judges_and_leaves_its_message(shell, tmp_path):
    pod, config = yaml.safe_load_all((EXAMPLES / "kubernetes/init-container.yaml").read_text())
    (container,) = pod["spec"]["initContainers"]
    mounted = {volume["name"] for volume in pod["spec"]["volumes"]}
    for one in (container, *pod["spec"]["containers"]):
        assert {mount["name"] for mount in one["volumeMounts"]} <= mounted
    assert pod["spec"]["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    policy = tmp_path / "dsa-doctor.toml"
    policy.write_text(config["data"]["dsa-doctor.toml"])
    assert load_policy(policy).suppressions
    places = {"/etc/dsa-doctor/dsa-doctor.toml": policy, "/dev/termination-log": tmp_path / "log", "/reports": tmp_path}
    command = [*container["command"], *container["args"]]
    for place, here in places.items():
        assert any(place in part for part in command)
        command = [part.replace(place, str(here)) for part in command]
    done = shell(shlex.join([*command, "--facts", "a100.json"]))
    assert done.returncode == 24, done.stderr
    assert (tmp_path / "log").read_text().startswith("# dsa-doctor")
    assert (tmp_path / "verdict.json").exists()


def test_the_workflow_uses_inputs_that_the_action_has():
    workflow = yaml.safe_load((EXAMPLES / "github/workflow.yml").read_text())
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    steps = workflow["jobs"]["gate"]["steps"]
    (gate,) = [step for step in steps if step.get("uses", "").startswith("dsa-doctor/")]
    assert set(gate["with"]) <= set(action["inputs"])
    (upload,) = [step for step in steps if "upload-sarif" in step.get("uses", "")]
    assert f"sarif={upload['with']['sarif_file']}" in action["inputs"]["outputs"]["default"]


def test_the_hook_example_uses_the_hook():
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (repository,) = yaml.safe_load((EXAMPLES / "pre-commit-config.yaml").read_text())["repos"]
    assert [hook["id"] for hook in repository["hooks"]] == [hook["id"] for hook in hooks]
