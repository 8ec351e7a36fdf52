"""Every command that the pages show is run, or, where it needs a GPU, the network or minutes, parsed for real.

`check` runs on the facts of a stock wheel where the page names no environment; files that a page speaks of are put into
a temporary folder. Whatever is not run has its reason below, and a reason that no page needs is a failure.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dsa_doctor.cli.app import app
from dsa_doctor.policy import load_policy
from dsa_doctor.verdict.schema import EXIT_BITS, EXIT_UNDETERMINED
from tests.docs.pages import FACTS, PAGES, REPOSITORY, Command, blocks, commands, name_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOG = REPOSITORY / "tests" / "dsa_doctor" / "explain" / "corpus" / "selector-a800-fp8-cache.log"

PARSED_ONLY: dict[str, tuple[Callable[[tuple[str, ...]], bool], str]] = {
    "bench": (
        lambda words: words[1] == "bench",
        "needs a GPU; run by tests/dsa_doctor/bench with a stand-in for the clock",
    ),
    "facts": (lambda words: words[1] == "facts", "imports vLLM for every question; run by tests/dsa_doctor/cli"),
    "run-model": (lambda words: words[1] == "run-model", "imports or starts vLLM; run by tests/dsa_doctor/launch"),
    "verify": (
        lambda words: words[1] == "verify" and "--target" not in words,
        "needs a GPU; run by tests/dsa_doctor/cli/test_verify.py with stand-ins for its processes",
    ),
    "wheel": (lambda words: "--wheel" in words, "needs a wheel of 500 MB; run by tests/dsa_doctor/cli/test_gate.py"),
}
"""Commands of dsa-doctor that are parsed and not run here, and why."""

NOT_OURS = {
    "vllm": "serves a model on GPUs",
    "docker": "needs a container that is running",
    "kubectl": "needs a cluster",
    "tar": "unpacks on the GPU machine what scripts/gpu/pack_vllm.py packed",
    "./serve.sh": "an emitted script; tests/dsa_doctor/emit runs those",
}
"""Programs that this project does not bring, and why they cannot run here."""

ALL = commands()
OURS = [one for one in ALL if one.words[0] == "dsa-doctor"]


def test_the_pages_show_commands() -> None:
    assert {"check", "facts", "explain", "run-model"} <= {one.words[1] for one in OURS}
    assert {"pip", "pytest", "python"} <= {one.words[0] for one in ALL}


@pytest.mark.parametrize("command", OURS, ids=str)
def test_dsa_doctor_accepts_it(command: Command) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("dsa-doctor", [command.words[1]])
    name, found, _ = group.resolve_command(context, [command.words[1]])  # type: ignore[attr-defined]
    assert found is not None, f"{command}: no such command"
    found.make_context(name, list(command.words[2:]))  # raises what a user would be told


@pytest.mark.parametrize("words", [("check", "--nope"), ("check", "-f", "yaml"), ("run-model",)])
def test_a_command_that_the_parser_refuses_is_seen(words: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match=r"nope|yaml|[Mm]issing"):
        test_dsa_doctor_accepts_it(Command("a page", ("dsa-doctor", *words)))


def _reason(command: Command) -> str | None:
    return next((reason for holds, reason in PARSED_ONLY.values() if holds(command.words)), None)


@pytest.mark.parametrize("command", [one for one in OURS if _reason(one) is None], ids=str)
def test_it_runs(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DSA_DOCTOR_PLUGIN", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    arguments = list(command.words[1:])
    if arguments[0] == "check" and "--facts" not in arguments:
        arguments += ["--facts", "facts.json"]
    _put_files(command, arguments)
    done = CliRunner().invoke(app, arguments, input=LOG.read_bytes() if command.reads_pipe else None)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    bits = sum(EXIT_BITS.values()) | EXIT_UNDETERMINED
    assert done.exit_code & ~bits == 0, f"{command}: exit code {done.exit_code}\n{done.output}"
    assert done.output.strip()
    for sink in (word.partition("=")[2] for word in arguments if re.match(r"[a-z]+=", word)):
        assert Path(sink).stat().st_size > 0


def _put_files(command: Command, arguments: list[str]) -> None:
    """Put what the command reads into the current folder."""
    for word in arguments:
        if word.endswith(".json"):
            shutil.copy(FACTS, word)
        elif word.endswith(".log"):
            shutil.copy(LOG, word)
        elif word == "requirements.txt":
            Path(word).write_text("vllm==0.32.0\n")
    if "ci-gate" in command.page:
        shutil.copy(REPOSITORY / "examples" / "dsa-doctor.toml", ".")


@pytest.mark.parametrize("command", [one for one in ALL if one not in OURS], ids=str)
def test_other_commands_name_what_exists(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = command.words
    if program == "pip":
        _accepted_by_pip(arguments)
    elif program == "pytest":
        assert all((REPOSITORY / one.partition("::")[0]).exists() for one in arguments if "/" in one)
    elif program == "python" and arguments[:2] == ["-m", "dsa_kernels.aot"]:
        from dsa_kernels.aot import __main__ as aot

        monkeypatch.setattr(aot, "rows_as_json", lambda *_: "[]")  # the compiling itself: tests/dsa_kernels/aot
        monkeypatch.setattr(sys, "argv", ["aot", *arguments[2:]])
        aot.main()
    elif program == "python":
        _accepted_by_script(arguments)
    elif program == "export":
        _names_folders_of_ours(arguments)
    else:
        assert program in NOT_OURS, f"{command}: run it here, or give the reason why not in NOT_OURS"


def _accepted_by_pip(arguments: list[str]) -> None:
    """The extras of `pip install -e '.[...]'` exist; `.ci/run` runs the README's."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert arguments[:2] == ["install", "-e"]
    where, _, extras = arguments[2].partition("[")
    assert where == "."
    assert set(filter(None, extras.rstrip("]").split(","))) <= set(project["optional-dependencies"])


def _names_folders_of_ours(arguments: list[str]) -> None:
    """Only PYTHONPATH is set, to folders that are here or that a page's earlier command puts under build/."""
    [setting] = arguments
    name, _, folders = setting.partition("=")
    assert name == "PYTHONPATH"
    for folder in folders.split(":"):
        assert folder.startswith("build/") or (REPOSITORY / folder).is_dir(), f"{setting}: there is no folder {folder}"


def _accepted_by_script(arguments: list[str]) -> None:
    """The script exists and knows the options; running it takes a GPU or minutes."""
    script = REPOSITORY / arguments[0]
    text = script.read_text(encoding="utf-8")
    shared = script.with_name("runner.py")  # the options that the benchmarks share
    text += shared.read_text(encoding="utf-8") if shared.exists() else ""
    for option in re.findall(r"--[a-z-]+", " ".join(arguments[1:])):
        assert f'"{option}"' in text, f"{arguments[0]} does not know {option}"


def test_no_reason_is_stale() -> None:
    needed = {name for name, (holds, _) in PARSED_ONLY.items() if any(holds(one.words) for one in OURS)}
    assert needed == set(PARSED_ONLY)
    assert {one.words[0] for one in ALL} & set(NOT_OURS) == set(NOT_OURS)


EXAMPLES = [
    pytest.param(text, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(blocks(page))
    if language == "python"
]


@pytest.mark.slow
@pytest.mark.parametrize("text", EXAMPLES)
def test_python_examples_run(text: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


POLICIES = [
    pytest.param(text, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(blocks(page))
    if language == "toml"
]


@pytest.mark.parametrize("text", POLICIES)
def test_policies_are_accepted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "dsa-doctor.toml"
    path.write_text(text, encoding="utf-8")
    assert load_policy(path).models
