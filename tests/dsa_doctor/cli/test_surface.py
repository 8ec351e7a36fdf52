"""Help, errors of usage and completion, as a person at a terminal meets them: the real command in a real process."""

import json
import os
import re
import subprocess
import sys

import pytest

COMMANDS = ("", "check", "explain", "facts", "models", "targets", "verify", "bench", "run-model", "cache")


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "dsa_doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", **environment},
        timeout=120,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_type_of_a_program_and_cuts_nothing(command):
    text = run(*command.split(), "--help").stdout
    assert text
    assert not re.findall(r"<(?:list|int|float|str|path|Path|text|integer)\b[^>]*>|\bINTEGER\b|\bTEXT\b", text)
    listed = text.split("Commands:")[-1] if "Commands:" in text else ""
    assert "..." not in listed
    options = re.findall(r"^  (--?\S.*)$", text.split("Options:")[-1].split("Commands:")[0], flags=re.MULTILINE)
    assert options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("check -f jsn", "--format jsn is not known. Did you mean json? Accepted: human, json,"),
        ("check -tp 0", "--tensor-parallel-size 0 is not accepted. Accepted: 1 or more."),
        ("check -tp=x", "--tensor-parallel-size"),
        ("check --gpu-memory 9999", "--gpu-memory 9999 is not accepted. Accepted: 0.5 to 4096."),
        ("check --taget a100", "No such option: --taget. Did you mean --target?"),
        (
            "run-model GLM-5 --gpu-memory-utilization 3",
            "--gpu-memory-utilization 3 is not accepted. Accepted: 0.01 to 1.",
        ),
        ("run-model GLM-5 --gpus many", "--gpus many is not accepted: it takes a whole number."),
        ("run-model GLM-5 --emit shel", "--emit shel is not known. Did you mean shell?"),
        ("run-model", "Missing argument 'MODEL'."),
        ("chek", "Did you mean"),
    ],
)
def test_an_error_of_usage_is_one_sentence_in_plain_words(arguments, said):
    done = run(*arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert re.fullmatch(r"dsa-doctor: .*See `\S+( \S+)?(?: \S+)* --help`\.\n", done.stderr)
    for word in ("Value error", "Input should", "Traceback", "Invalid value"):
        assert word not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--image x", "--image: only --emit docker and --emit lws"),
        ("--format json", "--format json: only a dry run"),
        ("--detach --dry-run", "--detach: nothing is started here"),
        ("-tp 16 --gpus 8 --target h200 --dry-run", "need 16 GPUs, and there are 8."),
        ("--gpus 8 --nodes 2 --target h200 -tp 8 --dry-run -- -dp 3", "need 48 GPUs, and there are 2 x 8."),
        ("-tp 7 --target h200 --dry-run", "does not divide the 64 attention heads"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, said):
    done = run("run-model", "GLM-5-FP8", *arguments.split())
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dsa-doctor check GLM-5.2", "GLM-5.2-FP8"),
        ("dsa-doctor check zai-org/GLM-5-", "zai-org/GLM-5-FP8"),
        ("dsa-doctor run-model DeepSeek-V3", "DeepSeek-V3.2"),
        ("dsa-doctor check --target a100-", "a100-40gb"),
        ("dsa-doctor check --attention-backend TRITON_MLA_S", "TRITON_MLA_SPARSE"),
        ("dsa-doctor check --format js", "json"),
        ("dsa-doctor explain DSA30", "DSA301"),
    ],
)
def test_a_shell_completes_what_is_known(words, expected):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['dsa-doctor']; from dsa_doctor.cli import main; main()"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_DSA_DOCTOR_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        timeout=120,
    )
    assert expected in done.stdout.split(), done.stderr


def test_facts_are_a_summary_on_a_terminal_and_whole_in_a_pipe(tmp_path):
    """A pseudo-terminal, as `script` makes one; the selector is left out, so that vLLM is not imported."""
    command = [sys.executable, "-m", "dsa_doctor", "facts", "--no-selector"]
    parent, child = os.openpty()
    process = subprocess.Popen(command, stdout=child, stderr=subprocess.PIPE, env={**os.environ, "TERM": "dumb"})
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the terminal is closed by its last writer
            break
        if not piece:
            break
        shown += piece
    assert process.wait(timeout=120) == 0
    text = shown.decode()
    assert "dsa-doctor facts > facts.json" in text
    assert len(text) < 20_000
    assert "…" not in text
    piped = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(piped.stdout)["schema_version"]


def test_a_bug_is_called_one_and_never_a_verdict():
    broken = "import dsa_doctor.cli.app as one; one.run = lambda _: {}['unforeseen']; one.main()"
    done = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "KeyError: 'unforeseen'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("dsa-doctor: this is a bug in dsa-doctor, and no verdict")
