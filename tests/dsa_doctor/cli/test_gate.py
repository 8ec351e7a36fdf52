"""`check` as a gate, in real processes: formats, sinks, policies, fleets and environments."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dsa_doctor.policy import load_policy
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.reports import facts_for

FORMATS = ("human", "json", "junit", "markdown", "html", "github", "sarif")


def run(*arguments, cwd, env=None, text=True):
    return subprocess.run(
        [sys.executable, "-m", "dsa_doctor", "check", *map(str, arguments)],
        capture_output=True,
        text=text,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "GITHUB_STEP_SUMMARY": "", **(env or {})},
        timeout=300,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a100.json").write_text(library.a100_facts().model_dump_json())
    (tmp_path / "h100.json").write_text(library.h100_facts().model_dump_json())
    (tmp_path / "requirements.txt").write_text("torch\nvllm==0.32.0\n")
    return tmp_path


def test_one_run_feeds_every_format(folder):
    outputs = [part for form in FORMATS for part in ("--output", f"{form}=reports/{form}.out")]
    done = run("--facts", "a100.json", *outputs, cwd=folder)
    assert done.returncode == 24
    assert done.stderr == ""
    written = {form: (folder / "reports" / f"{form}.out").read_text() for form in FORMATS}
    assert written["human"] == done.stdout
    assert json.loads(written["json"])["exit_code"] == 24
    assert ElementTree.fromstring(written["junit"]).get("failures") == "4"
    assert written["markdown"].startswith("# dsa-doctor")
    assert written["html"].startswith("<!DOCTYPE html>")
    assert written["github"].startswith("::error ")
    assert json.loads(written["sarif"])["version"] == "2.1.0"


@pytest.mark.parametrize("form", [one for one in FORMATS if one != "human"])
def test_standard_output_holds_the_data_alone(folder, form):
    done = run("--facts", "a100.json", "--format", form, "-o", f"{form}=same", "--strict", cwd=folder)
    assert done.stdout == (folder / "same").read_text()
    assert done.stderr.splitlines()[-1].startswith("DSA"), "the lines that downgrade are for people"
    assert "DSA901 = " not in done.stdout or form in {"json", "markdown", "html"}


def test_machine_formats_are_utf_8_whatever_the_terminal_is(folder):
    facts = library.h100_facts().model_dump_json().replace("NVIDIA H100 80GB HBM3", "NVIDIA H100 ü中")
    (folder / "odd.json").write_text(facts, encoding="utf-8")
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for form in ("junit", "markdown", "html", "json"):
        done = run("--facts", "odd.json", "--format", form, cwd=folder, env=env, text=False)
        assert done.returncode == 0, done.stderr
        assert "ü中" in done.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("junit=", "--output 'junit=' is not accepted. Accepted: FORMAT=PATH, where FORMAT is one of human, json"),
        ("xml=a", "--output 'xml=a' is not accepted"),
        ("report.json", "--output 'report.json' is not accepted"),
        ("json=requirements.txt/x.json", "--output json=requirements.txt/x.json: cannot be written"),
        ("json=folder", "--output json=folder: cannot be written (it is a folder)"),
    ],
)
def test_an_output_that_cannot_be_written_is_named(folder, output, said):
    (folder / "folder").mkdir()
    done = run("--facts", "a100.json", "--output", output, cwd=folder)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_disk_that_fills_up_is_no_verdict(folder):
    done = run("--facts", "h100.json", "--output", "json=/dev/full", cwd=folder)
    assert done.returncode == 2
    assert "--output json=/dev/full: cannot be written (No space left on device)" in done.stderr


def test_two_formats_do_not_share_a_file(folder):
    done = run("--facts", "a100.json", "-o", "json=a", "-o", "html=./a", cwd=folder)
    assert done.returncode == 2
    assert "is named twice" in done.stderr


def test_a_policy_is_found_and_its_lines_let_the_run_pass(folder):
    policy = folder / "dsa-doctor.toml"
    before = run("--facts", "a100.json", cwd=folder)
    lines = [line for line in before.stdout.splitlines() if line.startswith("DSA") and " = { " in line]
    assert before.stdout.rstrip().endswith(lines[-1])
    policy.write_text("[suppress]\n" + "\n".join(lines).replace("say why", "new image in April"))
    after = run("--facts", "a100.json", cwd=folder)
    assert after.returncode == 0, after.stdout
    assert "Suppressed by the policy: DSA201, DSA301, DSA901, DSA913" in " ".join(after.stdout.split())
    assert "Exit code 0; without the policy it is 24." in " ".join(after.stdout.split())
    assert run("--facts", "a100.json", "--policy", os.devnull, cwd=folder).returncode == 24
    renamed = policy.rename(folder / "other.toml")
    assert run("--facts", "a100.json", cwd=folder).returncode == 24
    assert run("--facts", "a100.json", "--config", renamed, cwd=folder).returncode == 0


def test_the_policys_matrix_is_judged_and_the_command_line_comes_first(folder):
    answers = tuple(
        facts_for(model, target).selector.value.answers[0]
        for model in ("GLM-5-FP8", "DeepSeek-V3.2")
        for target in ("a100", "h100")
    )
    (folder / "facts.json").write_text(library.facts(answers=answers, plugin=True).model_dump_json())
    (folder / "pyproject.toml").write_text(
        '[tool.dsa-doctor]\nmodels = ["GLM-5-FP8", "DeepSeek-V3.2"]\ntargets = ["a100", "h100"]\n'
        'allowed-states = { attention = ["native"] }\n'
    )
    done = run("--facts", "facts.json", "--format", "json", cwd=folder)
    document = json.loads(done.stdout)
    assert [(one["model"]["name"], one["target"]["sm"], one["exit_code"]) for one in document["verdicts"]] == [
        ("GLM-5-FP8", "sm80", 8),
        ("GLM-5-FP8", "sm90", 0),
        ("DeepSeek-V3.2", "sm80", 8),
        ("DeepSeek-V3.2", "sm90", 0),
    ]
    assert document["policy"]["source"] == "pyproject.toml"
    assert done.returncode == document["exit_code"] == 8
    narrowed = run("DeepSeek-V3.2", "--target", "h100", "--facts", "facts.json", "--format", "json", cwd=folder)
    assert json.loads(narrowed.stdout)["model"]["name"] == "DeepSeek-V3.2"
    assert narrowed.returncode == 0


def test_environments_stand_side_by_side(folder):
    done = run("--facts", "a100.json", "--facts", "h100.json", "-t", "h100", cwd=folder)
    heading = next(line for line in done.stdout.splitlines() if line.startswith("MODEL"))
    assert heading.split()[-2:] == ["a100.json", "h100.json"]
    row = next(line for line in done.stdout.splitlines() if "2 attention" in line)
    assert row.split()[-2:] == ["UNKNOWN", "native"]
    document = json.loads(run("--facts", "a100.json", "--facts", "h100.json", "-f", "json", cwd=folder).stdout)
    assert [one["environment"] for one in document["verdicts"]] == ["a100.json", "h100.json"]


def test_a_manifest_is_pointed_at(folder):
    done = run("--facts", "a100.json", "--manifest", "requirements.txt", "-f", "github", cwd=folder)
    assert done.stdout.startswith("::error file=requirements.txt,line=2,title=")


def test_github_gets_its_step_summary(folder):
    summary = folder / "summary.md"
    summary.write_text("before\n")
    env = {"GITHUB_STEP_SUMMARY": str(summary)}
    run("--facts", "a100.json", "-f", "github", cwd=folder, env=env)
    text = summary.read_text()
    assert text.startswith("before\n# dsa-doctor\n")
    run("--facts", "a100.json", "-f", "json", cwd=folder, env=env)
    assert summary.read_text() == text, "only the github format writes there"
    summary.write_bytes(b"x" * (1024 * 1024 - 200))
    run("--facts", "a100.json", "-f", "github", cwd=folder, env=env)
    assert summary.stat().st_size <= 1024 * 1024
    assert summary.read_bytes().endswith(b"does not fit into what is left of this summary.\n")
    lost = run("--facts", "h100.json", "-f", "github", cwd=folder, env={"GITHUB_STEP_SUMMARY": str(folder)})
    assert lost.returncode == 0
    assert "GITHUB_STEP_SUMMARY cannot be written" in lost.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "nowhere.toml"), "--policy nowhere.toml: cannot be read"),
        (("--manifest", "a100.json"), "--manifest a100.json: no line names vLLM"),
        (("--python", "nowhere"), "--python nowhere: no such file or folder"),
        (("--wheel", "vllm-1-py3-none-any.whl"), "--wheel vllm-1-py3-none-any.whl: no such file"),
        (("--wheel", "vllm-*.whl"), "--wheel vllm-*.whl: no such file"),
        (("--wheel", "a.whl", "b.whl"), "MODEL 'b.whl' is a wheel. Give each wheel a --wheel of its own"),
    ],
)
def test_wrong_usage_is_named(folder, arguments, said):
    done = run(*arguments, cwd=folder)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_policy_stops_before_anything_is_judged(folder):
    (folder / "dsa-doctor.toml").write_text("required_layers = ['csrc']")
    done = run("--facts", "a100.json", cwd=folder)
    assert done.returncode == 2
    assert "did you mean required-layers?" in done.stderr


def test_a_site_packages_folder_is_judged_by_its_files(folder):
    site = folder / "image" / "site-packages"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text("")
    info = site / "vllm-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    done = run("--python", site, "--target", "a100", "-f", "json", cwd=folder)
    document = json.loads(done.stdout)
    assert document["software"]["vllm"] == "0.32.0"
    assert document["environment"].endswith("image/site-packages")
    states = {one["layer"]: one["state"] for one in document["layers"]}
    assert states["attention"] == "unknown", "there is no interpreter to ask the selector with"
    assert done.returncode & 32


def test_help_stays_light():
    probe = (
        "import sys; from typer.testing import CliRunner; from dsa_doctor.cli.app import app; "
        "assert CliRunner().invoke(app, ['check', '--help']).exit_code == 0; "
        "print([name for name in ('dsa_doctor.preflight', 'jinja2', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_example_policy_of_the_documentation_is_read():
    assert load_policy(Path(__file__).parents[3] / "examples" / "dsa-doctor.toml").suppressions


def test_a_wheels_code_runs_only_where_it_is_said_and_never_with_no_execute(folder):
    """The package leaves a trace with what it sees when it is imported."""
    trace = folder / "trace"
    name = "vllm-9.8.7-cp38-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        source = f"import os\nopen({str(trace)!r}, 'w').write('\\n'.join(os.environ))\n"
        archive.writestr("vllm/__init__.py", source)
        archive.writestr("vllm-9.8.7.dist-info/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 9.8.7\n")
    arguments = ("--wheel", name, "--target", "a100", "-f", "json")
    files_alone = run(*arguments, "--no-execute", cwd=folder, env={"HF_TOKEN": "secret"})
    assert not trace.exists()
    assert "runs its code" not in files_alone.stderr
    states = {one["layer"]: one["state"] for one in json.loads(files_alone.stdout)["layers"]}
    assert states["attention"] == "unknown"
    assert "(--no-execute)" in files_alone.stdout
    executed = run(*arguments, cwd=folder, env={"HF_TOKEN": "secret"})
    assert re.search(r"--wheel \S+: its vLLM is imported, which runs its code .*, with(out)? network", executed.stderr)
    seen = trace.read_text().split("\n")
    assert "PATH" in seen
    assert "HF_TOKEN" not in seen
