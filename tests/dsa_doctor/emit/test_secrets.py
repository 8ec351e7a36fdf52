"""Emitted forms name the variables of keys and tokens, and pass them on to the server."""

import subprocess

import pytest
import yaml

from dsa_doctor.emit import FORMS, Launch

LAUNCH = Launch(name="m", model="org/m", flags=(), nodes=2, secrets=("VLLM_API_KEY", "HF_TOKEN"))


@pytest.mark.parametrize("form", ["shell", "docker", "ray"])
def test_a_script_ends_at_once_where_a_key_is_not_set(form):
    script = FORMS[form](LAUNCH)
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    checks = "\n".join(line for line in script.splitlines() if line.startswith((': "${', "export ")))
    for environment, status in (({}, 1), ({"VLLM_API_KEY": "k"}, 1), ({"VLLM_API_KEY": "k", "HF_TOKEN": "t"}, 0)):
        done = subprocess.run(["bash", "-c", checks], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True)
        assert bool(done.returncode) is bool(status), done
    if form == "docker":
        container = script[script.index("container=(") : script.index("\n)")]
        assert "  -e VLLM_API_KEY\n  -e HF_TOKEN" in container, "handed on by name: no value stands in the process list"


def test_a_manifest_takes_keys_from_a_secret():
    text = FORMS["lws"](LAUNCH)
    assert "# The Secret m must hold VLLM_API_KEY." in text
    manifest = next(yaml.safe_load_all(text))
    template = manifest["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    entry = {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "m", "key": "VLLM_API_KEY"}}}
    assert entry in template["spec"]["containers"][0]["env"]
