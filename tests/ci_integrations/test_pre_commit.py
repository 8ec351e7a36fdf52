"""The hook, installed and run by pre-commit itself from a clone of this checkout, without a network."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dsa_doctor import facts_library as library

ROOT = Path(__file__).parents[2]
IN_THE_CLONE = ("dsa_doctor", "kernels", "docs", "pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PRE_COMMIT", "PIP_"))},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.com",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.com",
}


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder):
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.slow
def test_the_hook_gates_a_commit(tmp_path):
    pytest.importorskip("pre_commit")
    pytest.importorskip("hatchling")
    clone = tmp_path / "dsa-doctor"
    clone.mkdir()
    for name in IN_THE_CLONE:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, clone / name, ignore=ignore) if source.is_dir() else shutil.copy(source, clone / name)
    revision = commit(clone)
    project = tmp_path / "project"
    project.mkdir()
    (project / "facts.json").write_text(library.a100_facts().model_dump_json())
    (project / ".pre-commit-config.yaml").write_text(
        f"repos:\n- repo: {clone}\n  rev: {revision}\n  hooks:\n  - id: dsa-doctor\n    args: [--facts, facts.json]\n"
    )
    commit(project)
    # pip builds with what is installed here, and the hook's environment borrows this one's dependencies: no network.
    packages = os.pathsep.join(site.getsitepackages())
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": packages}
    environment = {**ENVIRONMENT, **offline, "PRE_COMMIT_HOME": str(tmp_path / "cache"), "NO_COLOR": "1"}

    def run():
        return subprocess.run(
            [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    failing = run()
    assert failing.returncode == 1, failing.stdout + failing.stderr
    assert "- exit code: 24" in failing.stdout
    assert "DSA201" in failing.stdout
    lines = [line for line in failing.stdout.splitlines() if line.startswith("DSA") and " = { " in line]
    (project / "dsa-doctor.toml").write_text("[suppress]\n" + "\n".join(lines).replace("say why", "new image in April"))
    git(project, "add", "--all")
    passing = run()
    assert passing.returncode == 0, passing.stdout + passing.stderr
    assert "Exit code 0; without the policy it is 24." in " ".join(passing.stdout.split())
