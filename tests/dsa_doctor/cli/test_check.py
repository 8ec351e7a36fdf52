"""The real command in a real process, on facts from a file."""

import json
import os
import subprocess
import sys

import jsonschema
import pytest

from dsa_doctor.render.json import verdict_schema
from tests.dsa_doctor import facts_library as library


def run(*arguments, env=None, check_text=True):
    return subprocess.run(
        [sys.executable, "-m", "dsa_doctor", *arguments],
        capture_output=True,
        text=check_text,
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
        timeout=120,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    machines = {
        "a100": library.a100_facts(),
        "a100-plugin": library.a100_facts(plugin=True),
        "h100": library.h100_facts(),
        "none": library.facts(),
        "mixed": library.facts(
            *[library.H100] * 4,
            *[library.A100] * 4,
            answers=(library.answer("9.0", "FLASHMLA_SPARSE"), library.answer("8.0", None)),
        ),
        "hidden": library.facts(library.A100.model_copy(update={"visible": False})),
    }
    for name, facts in machines.items():
        (folder / f"{name}.json").write_text(facts.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("machine", "code"), [("a100", 24), ("a100-plugin", 0), ("h100", 0), ("mixed", 24), ("none", 32), ("hidden", 32)]
)
def test_exit_codes_and_json(files, machine, code):
    done = run("check", "GLM-5-FP8", "--facts", str(files / f"{machine}.json"), "--format", "json")
    assert done.stderr == ""
    verdict = json.loads(done.stdout)
    jsonschema.validate(verdict, verdict_schema())
    assert done.returncode == verdict["exit_code"] == code


def test_mixed_gpus_are_judged_by_the_worst(files):
    done = run("check", "--facts", str(files / "mixed.json"), "--format", "json")
    verdict = json.loads(done.stdout)
    assert verdict["target"]["capability"] == "8.0"
    assert "DSA907" in {finding["id"] for finding in verdict["findings"]}


def test_no_gpu_and_no_target_is_said_and_not_guessed(files):
    done = run("check", "--facts", str(files / "none.json"))
    assert done.returncode == 32
    assert "no NVIDIA GPU" in done.stdout
    assert "--target a100" in done.stdout


@pytest.mark.parametrize("columns", ["60", "80", "100", "200"])
def test_the_human_report_fits(files, columns):
    done = run("check", "--facts", str(files / "a100.json"), "--verbose", env={"COLUMNS": columns})
    widest = max(len(line.rstrip()) for line in done.stdout.splitlines())
    assert widest <= min(int(columns), 100)
    assert "…" not in done.stdout, "a reason is never cut"
    assert "\x1b[" not in done.stdout
    for word in ("1 csrc", "2 attention", "3 indexer", "UNRESOLVED", "Exit code 24", "FLASHMLA_SPARSE"):
        assert word in done.stdout


def test_the_report_is_readable_where_the_terminal_is_not_utf_8(files):
    done = run(
        "check",
        "--facts",
        str(files / "a100.json"),
        "--verbose",
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        check_text=False,
    )
    assert done.returncode == 24
    assert done.stderr == b""
    text = done.stdout.decode("ascii")
    assert "UNRESOLVED" in text
    assert "?" not in text, "a character that this terminal lacks was replaced"


def test_colour_only_where_asked(files):
    done = run("check", "--facts", str(files / "h100.json"), env={"NO_COLOR": "", "FORCE_COLOR": "1"})
    assert "\x1b[" in done.stdout
    done = run("check", "--facts", str(files / "h100.json"), env={"NO_COLOR": "1", "FORCE_COLOR": "1"})
    assert "\x1b[3" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--target", "v200"], "Accepted: a GPU (a100"),
        (["check", "--facts", "nowhere.json"], "cannot be read"),
        (["check", "--no-such-flag"], "No such option"),
        (["check", "--tensor-parallel-size", "0"], "--tensor-parallel-size"),
        (["check", "--format", "xml"], "xml"),
    ],
)
def test_wrong_usage_exits_2_on_stderr(files, arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_ranks_that_do_not_divide_the_heads(files):
    done = run("check", "--facts", str(files / "a100.json"), "-tp", "7")
    assert done.returncode == 2
    assert "does not divide the 64 attention heads" in done.stderr


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": "1.0"}', "\x00"])
def test_a_facts_file_that_is_none(tmp_path, content):
    file = tmp_path / "facts.json"
    file.write_text(content)
    done = run("check", "--facts", str(file))
    assert done.returncode == 2
    assert "not a facts file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_facts_file_of_another_schema(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text(library.a100_facts(schema_version="2.0").model_dump_json())
    done = run("check", "--facts", str(file))
    assert done.returncode == 2
    assert "schema version 2.0" in done.stderr


def test_a_wrong_plugin_mode_names_the_variable(files):
    done = run("check", "--facts", str(files / "a100.json"), env={"DSA_DOCTOR_PLUGIN": "yes"})
    assert done.returncode == 2
    assert "DSA_DOCTOR_PLUGIN='yes' is not known. Accepted: auto, off, force" in done.stderr


@pytest.mark.parametrize("command", [("check",), ("run-model", "--dry-run")])
def test_a_mistyped_model_is_told_before_anything_is_looked_at(files, command):
    done = run(*command, "GLM-5-PF8", "--target", "a100")
    assert done.returncode == 2
    assert "Did you mean GLM-5-FP8" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_model_that_cannot_be_read_is_a_finding(files, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    done = run("check", str(tmp_path), "--facts", str(files / "a100.json"), "--format", "json")
    verdict = json.loads(done.stdout)
    assert done.returncode == 32
    assert verdict["findings"][0]["id"] == "DSA910"
    assert verdict["asked"] == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kv-cache-dtype", "banana"), "--kv-cache-dtype banana is not known. Accepted: auto, bfloat16"),
        (("--kv-cache-dtype", "fp8_e4m"), "Did you mean fp8_e4m3"),
    ],
)
def test_a_mistyped_choice_is_told_at_once(files, arguments, said):
    done = run("check", "--facts", str(files / "a100.json"), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_traceback(files):
    command = f"{sys.executable} -m dsa_doctor check --facts {files / 'a100.json'} --verbose | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert "GLM-5-FP8 on NVIDIA A100" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_judge_s_own_settings_never_reach_foreign_facts(files):
    own = {"DSA_DOCTOR_PLUGIN": "off", "VLLM_PLUGINS": "foo", "CUDA_VISIBLE_DEVICES": ""}
    done = run("check", "--facts", str(files / "a100-plugin.json"), "--format", "json", env=own)
    assert [layer["state"] for layer in json.loads(done.stdout)["layers"]] == ["upstream", "plugin", "plugin"]
    done = run("check", "--facts", str(files / "a100-plugin.json"), "--plugin", "off")
    assert done.returncode == 24
    wrong = run("check", "--facts", str(files / "a100-plugin.json"), "--plugin", "yes")
    assert wrong.returncode == 2
    assert "--plugin yes is not known. Accepted: auto, off, force" in wrong.stderr


def test_lists():
    models = json.loads(run("models", "--format", "json").stdout)
    assert {"GLM-5-FP8", "DeepSeek-V3.2"} <= {one["name"] for one in models}
    targets = json.loads(run("targets", "--format", "json").stdout)
    assert next(one for one in targets if one["alias"] == "a100")["shared_memory_per_block"] == 166912
    row = next(line for line in run("models").stdout.splitlines() if "GLM-5-FP8" in line.split())
    assert "zai-org" in row
    for columns in ("80", "100", "120"):
        shown = run("targets", env={"COLUMNS": columns}).stdout
        assert "166,912 B" in shown
        assert "…" not in shown
        spelt = "".join(line.strip() for line in shown.split("Other spellings")[1].splitlines()).replace(" ", "")
        assert [one for one in targets if ",".join(one["aliases"]) not in spelt] == []  # folded, and never cut


def test_version_and_help():
    assert run("--version").stdout.startswith("dsa-doctor ")
    shown = run("--help")
    assert shown.returncode == 0
    for command in ("check", "facts", "models", "targets"):
        assert command in shown.stdout
    assert "Exit code" in run("check", "--help").stdout


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "dsa_doctor", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"dsa_doctor", "typer"} <= imported, "the list of imports was not read"
    assert imported & {"torch", "triton", "vllm", "transformers", "pydantic"} == set()
