"""Standard output full, closed, or read by nobody, in every command and format; sinks that already hold text."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsa_doctor.cli.output import EXIT_OUTPUT
from tests.dsa_doctor import facts_library as library

LOG = "ValueError: No valid attention backend found for cuda\n"
COMMANDS: dict[str, list[str]] = {
    "help": ["--help"],
    "version": ["--version"],
    "help of a command": ["check", "--help"],
    "models": ["models"],
    "models json": ["models", "--format", "json"],
    "targets": ["targets"],
    "facts": ["facts", "--no-selector"],
    "explain": ["explain", "LOG"],
    "explain json": ["explain", "LOG", "--format", "json"],
    **{
        f"check {form}": ["check", "--facts", "FACTS", "--target", "a100", "--format", form]
        for form in ("human", "json", "sarif", "junit", "markdown", "github", "html")
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "facts.json").write_text(library.a100_facts().model_dump_json())
    (folder / "engine.log").write_text(LOG)
    return {"FACTS": str(folder / "facts.json"), "LOG": str(folder / "engine.log")}


def arguments(name: str, inputs: dict[str, str]) -> list[str]:
    return [sys.executable, "-m", "dsa_doctor", *(inputs.get(one, one) for one in COMMANDS[name])]


def through_shell(command: Sequence[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run under a shell, since subprocess itself cannot hand over a closed descriptor."""
    script = f'exec "$@" {redirection}'
    return subprocess.run(
        ["sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("redirection", "said"), [("> /dev/full", "No space left on device"), (">&-", "standard output is closed")]
)
def test_output_that_is_lost_is_told_and_has_a_status(
    name: str, redirection: str, said: str, inputs: dict[str, str]
) -> None:
    done = through_shell(arguments(name, inputs), redirection)
    assert done.returncode == EXIT_OUTPUT
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("name", ["help", "models", "explain", "check human", "check json", "check html"])
def test_a_reader_that_goes_away_is_told(name: str, inputs: dict[str, str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(arguments(name, inputs), stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(write_end)
    assert done.returncode == EXIT_OUTPUT
    assert "the reader of standard output went away" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-"])
def test_lost_standard_error_costs_no_verdict(redirection: str, inputs: dict[str, str]) -> None:
    done = through_shell(arguments("check sarif", inputs), redirection)
    assert done.returncode == 24
    assert json.loads(done.stdout)["version"] == "2.1.0"


@pytest.mark.parametrize("columns", ["0", "1", "20", "-5", "many"])
@pytest.mark.parametrize("name", ["check human", "explain", "models", "targets"])
def test_a_terminal_without_width_gets_the_whole_report(name: str, columns: str, inputs: dict[str, str]) -> None:
    """A pseudo-terminal that nobody gave a size says 0."""
    done = subprocess.run(
        arguments(name, inputs), capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": columns}
    )
    usual = subprocess.run(
        arguments(name, inputs), capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "100"}
    )
    assert (done.returncode, done.stderr) == (usual.returncode, usual.stderr)
    words, all_words = set(done.stdout.split()), set(usual.stdout.split())
    if name == "check human":  # what is long is cut there, at any width
        all_words = {"UNRESOLVED", "DSA201", "DSA301", "DSA901", "TRITON_MLA_SPARSE,", "24."}
    assert {one for one in all_words if one.isalnum()} <= words


@pytest.mark.parametrize("name", ["check human", "explain", "models"])
def test_a_current_folder_that_was_removed(name: str, inputs: dict[str, str], tmp_path: Path) -> None:
    script = f'mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec "$@"'
    command = ["sh", "-c", script, "sh", *arguments(name, inputs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    if name == "check human":  # it looks for a policy there
        assert done.returncode == 2
        assert done.stderr == "dsa-doctor: the current folder is gone. Change to one that exists, and run it again.\n"
    else:
        assert (done.returncode in {0, 32}, done.stderr) == (True, "")
        assert done.stdout


def test_a_file_s_name_cannot_write_lines_of_its_own(tmp_path: Path) -> None:
    for content in (b"\x7fELF" + bytes(100), None):
        log = tmp_path / "a\ndsa-doctor: all is well.log"
        log.unlink(missing_ok=True)
        if content is not None:
            log.write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-m", "dsa_doctor", "explain", str(log)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_closed_standard_input_is_no_empty_log() -> None:
    done = through_shell([sys.executable, "-m", "dsa_doctor", "explain", "-"], "<&-")
    assert done.returncode == 2
    assert "standard input is closed" in done.stderr


@pytest.mark.parametrize("sink", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "FILE"])
@pytest.mark.parametrize("redirection", [">", ">>"])
def test_a_sink_that_is_standard_output_keeps_what_the_file_holds(
    sink: str, redirection: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    kept = tmp_path / "run.log"
    kept.write_text("earlier\n" if redirection == ">>" else "")
    sink = str(kept) if sink == "FILE" else sink
    command = [*arguments("check human", inputs), "--output", f"json={sink}"]
    script = f'exec 3{redirection}"$0"; echo before >&3; "$@" >&3; code=$?; echo after >&3; exit $code'
    done = subprocess.run(["sh", "-c", script, str(kept), *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 24, done.stderr
    text = kept.read_text()
    assert text.startswith("earlier\nbefore\n" if redirection == ">>" else "before\n")
    assert text.endswith("after\n")
    start = text.index("{")
    verdict, _ = json.JSONDecoder().raw_decode(text[start:])
    assert verdict["exit_code"] == 24


def test_an_ordinary_sink_is_written_anew(inputs: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("x" * 10**6)
    done = through_shell([*arguments("check human", inputs), "--output", f"json={file}"], "")
    assert done.returncode == 24
    assert json.loads(file.read_text())["exit_code"] == 24


def test_a_pipe_as_a_sink_is_written_to(inputs: dict[str, str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        through_shell([*arguments("check human", inputs), "--output", f"json={pipe}"], "")
        text, _ = reader.communicate(timeout=60)
    assert json.loads(text)["exit_code"] == 24
