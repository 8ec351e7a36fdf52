"""Every emitted form: as reviewed (snapshots), and as its own checker wants it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from dsa_doctor.emit import FORMS, Launch
from dsa_doctor.launch.flags import Flag, Variable

HERE = Path(__file__).parent
SNAPSHOTS = HERE / "snapshots"
UPDATE = os.environ.get("DSA_DOCTOR_UPDATE_SNAPSHOTS") == "1"


def _flag(option, value=None):
    return Flag(option=option, value=value, why="because", source="test")


def _launch(nodes, **changes):
    values = {
        "name": "GLM-5-FP8",
        "model": "zai-org/GLM-5-FP8",
        "flags": (
            _flag("--attention-backend", "TRITON_MLA_SPARSE"),
            _flag("--kv-cache-dtype", "auto"),
            _flag("--tensor-parallel-size", "8"),
            *((_flag("--pipeline-parallel-size", str(nodes)),) if nodes > 1 else ()),
            _flag("--enable-auto-tool-choice"),
            _flag("--port", "8000"),
        ),
        "variables": (
            Variable(name="DSA_DOCTOR_PLUGIN", value="auto", why="because", source="test"),
            Variable(name="VLLM_ENGINE_READY_TIMEOUT_S", value="3600", why="because", source="test"),
        ),
        "extra": ("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}', "--odd", "it's $HOME"),
        "nodes": nodes,
        "gpus_per_node": 8,
    }
    return Launch(**{**values, **changes})


CASES = [(form, nodes) for form in FORMS for nodes in (1, 2)]
SCRIPTS = [(form, nodes) for form, nodes in CASES if form != "lws"]


@pytest.mark.parametrize(("form", "nodes"), CASES)
def test_snapshot(form, nodes):
    """Set DSA_DOCTOR_UPDATE_SNAPSHOTS=1 to write the snapshots anew, then review them."""
    text = FORMS[form](_launch(nodes))
    file = SNAPSHOTS / f"{form}-{nodes}.{'yaml' if form == 'lws' else 'sh'}"
    if UPDATE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize(("form", "nodes"), SCRIPTS)
def test_scripts_pass_shellcheck(form, nodes, tmp_path):
    shellcheck = shutil.which("shellcheck") or os.fspath(Path(sys.executable).with_name("shellcheck"))
    script = tmp_path / "serve.sh"
    script.write_text(FORMS[form](_launch(nodes)))
    result = subprocess.run([shellcheck, "--severity=style", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


_STUB = r"""#!/bin/sh
for one in "$0" "$@"; do printf '%s\0' "$one"; done >> "$CALLS"
printf '\n' >> "$CALLS"
"""


def _stubs(folder, *names):
    """Put commands into a folder that note their arguments and succeed."""
    folder.mkdir()
    for name in names:
        stub = folder / name
        stub.write_text(
            '#!/bin/sh\nfor one in "$0" "$@"; do printf "%s\\0" "$one"; done >> "$CALLS"\nprintf "\\n" >> "$CALLS"\n'
        )
        stub.chmod(0o755)
    return folder


def _run(text, tmp_path, *arguments, names=("dsa-doctor", "vllm", "docker")):
    """Run a script with stubs in place of every command; return each call's arguments."""
    calls = tmp_path / "calls"
    folder = _stubs(tmp_path / "bin", *names)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": os.fspath(calls), "HOME": "/home/someone"}
    script = tmp_path / "serve.sh"
    script.write_text(text)
    subprocess.run(["bash", script, *arguments], env=environment, check=True, capture_output=True, text=True)
    rows = [row.split("\0")[:-1] for row in calls.read_text().split("\n") if row]
    return [[Path(row[0]).name, *row[1:]] for row in rows]


EXTRA = ["--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}', "--odd", "it's $HOME"]


def test_the_shell_script_checks_and_then_serves(tmp_path):
    check, serve = _run(FORMS["shell"](_launch(1)), tmp_path)
    assert check[:3] == ["dsa-doctor", "check", "zai-org/GLM-5-FP8"]
    assert serve[:3] == ["vllm", "serve", "zai-org/GLM-5-FP8"]
    assert serve[-4:] == EXTRA, "quoting survives the shell"
    assert "--nnodes" not in serve


@pytest.mark.parametrize("form", ["shell", "docker"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_each_rank_gets_its_command(form, rank, tmp_path):
    check, serve = _run(FORMS[form](_launch(2)), tmp_path, rank, "10.0.0.1")
    assert "check" in check
    expected = ["--nnodes", "2", "--node-rank", rank, "--master-addr", "10.0.0.1", "--master-port", "29501"]
    start = serve.index("--nnodes")
    assert serve[start : start + 8] == expected
    assert ("--headless" in serve) is (rank == "1")
    rest = [one for one in serve if one != "--headless"]
    assert rest[-4:] == EXTRA


def test_a_failed_check_stops_the_script(tmp_path):
    text = FORMS["shell"](_launch(1))
    folder = _stubs(tmp_path / "bin", "vllm")
    failing = folder / "dsa-doctor"
    failing.write_text("#!/bin/sh\nexit 8\n")
    failing.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": os.fspath(tmp_path / "calls")}
    script = tmp_path / "serve.sh"
    script.write_text(text)
    assert subprocess.run(["bash", script], env=environment).returncode == 8
    assert not (tmp_path / "calls").exists()


def test_a_script_for_several_nodes_wants_its_rank(tmp_path):
    script = tmp_path / "serve.sh"
    script.write_text(FORMS["shell"](_launch(2)))
    result = subprocess.run(["bash", script], capture_output=True, text=True)
    assert result.returncode != 0
    assert "node rank, 0 to 1" in result.stderr


def _documents(nodes, **changes):
    return list(yaml.safe_load_all(FORMS["lws"](_launch(nodes, **changes))))


def _check_manifest(workers):
    """Validate a LeaderWorkerSet: its own fields, then each pod template as a Pod with Kubernetes' strict schema."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    jsonschema.validate(workers, json.loads((HERE / "leaderworkerset.schema.json").read_text()))
    templates = workers["spec"]["leaderWorkerTemplate"]
    for name in ("leaderTemplate", "workerTemplate"):
        if name in templates:
            pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(templates[name])}
            kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("host", [0, 320 * 2**30])
def test_the_manifests_validate_against_the_published_schemas(nodes, host):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    workers, service = _documents(nodes, host_memory_bytes=host)
    _check_manifest(workers)
    kubernetes_validate.validate(service, kubernetes_validate.latest_version(), strict=True)


def test_a_broken_manifest_does_not_validate():
    workers, _ = _documents(2)
    for path, value in (
        (("spec", "startupPolicy"), "LeaderLast"),
        (("spec", "leaderWorkerTemplate", "sise"), 2),
        (("spec", "leaderWorkerTemplate", "workerTemplate", "spec", "containers", 0, "arguments"), []),
        (("spec", "leaderWorkerTemplate", "leaderTemplate", "spec", "containers", 0, "image"), 7),
    ):
        broken = copy.deepcopy(workers)
        place = broken
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(Exception, match=r"."):
            _check_manifest(broken)


def test_every_rank_is_checked_before_it_starts_and_only_the_leader_is_probed():
    workers, service = _documents(2)
    spec = workers["spec"]
    assert (spec["startupPolicy"], spec["leaderWorkerTemplate"]["restartPolicy"]) == (
        "LeaderCreated",
        "RecreateGroupOnPodRestart",
    )
    assert spec["leaderWorkerTemplate"]["size"] == 2
    leader, worker = (spec["leaderWorkerTemplate"][one]["spec"] for one in ("leaderTemplate", "workerTemplate"))
    for pod in (leader, worker):
        (preflight,) = pod["initContainers"]
        assert preflight["command"] == ["dsa-doctor", "check"]
        assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
        assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    serve, work = leader["containers"][0], worker["containers"][0]
    assert serve["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8000}
    assert not any("robe" in key for key in work)
    assert "--headless" in work["args"]
    assert "--headless" not in serve["args"]
    for container, rank in ((serve, "0"), (work, "$(LWS_WORKER_INDEX)")):
        arguments = container["args"]
        assert arguments[arguments.index("--node-rank") + 1] == rank
        assert arguments[arguments.index("--nnodes") + 1] == "$(LWS_GROUP_SIZE)"
        assert arguments[arguments.index("--master-addr") + 1] == "$(LWS_LEADER_ADDRESS)"
    assert service["spec"]["selector"]["role"] == "leader"


@pytest.mark.parametrize("name", ["GLM-5-FP8", "org/Some Model_v1.5!", "---", "x" * 90, "Ünï"])
def test_names_of_kubernetes_objects_are_dns_labels(name):
    slug = _launch(1, name=name).slug
    assert 0 < len(slug) <= 40
    assert all(one.isascii() and (one.isalnum() or one == "-") for one in slug)
    assert slug[0].isalnum()
    assert slug[-1].isalnum()
    assert slug == slug.lower()
