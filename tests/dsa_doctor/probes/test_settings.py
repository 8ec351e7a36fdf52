"""Which of this process's variables are facts: those that the installed vLLM reads, redacted, and nobody else's."""

import os
import sys
from pathlib import Path

import pytest

from dsa_doctor.compat.settings import allows, known_variables, plugins_by_name, selects
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.probes import settings
from dsa_doctor.probes.child import run_child
from dsa_doctor.probes.environment import Environment
from tests.releases import RELEASES, release_folder


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("VLLM_", "CUDA_", "DSA_DOCTOR_PLUGIN"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("version", RELEASES)
def test_every_release_names_its_variables_and_its_rule(version):
    tree = SourceTree(release_folder(version))
    known = known_variables(tree)
    assert {"VLLM_PLUGINS", "VLLM_USE_DEEP_GEMM", "VLLM_MLA_DISABLE", "VLLM_USE_BREAKABLE_CUDAGRAPH"} <= known
    assert "VLLM_ATTENTION_BACKEND" not in known
    chosen = {name for name in known if selects(name)}
    assert {"VLLM_USE_DEEP_GEMM", "VLLM_MLA_DISABLE", "VLLM_BATCH_INVARIANT", "VLLM_KV_CACHE_LAYOUT"} <= chosen
    assert not chosen & {"VLLM_API_KEY", "VLLM_PORT", "VLLM_CACHE_ROOT", "VLLM_HOST_IP", "VLLM_ROCM_USE_AITER_MLA"}
    assert plugins_by_name(tree) is True


def test_vllm_s_own_rule_agrees(vllm_dir):
    """The rule is vLLM's: its own expression is evaluated on the same settings."""
    source = (vllm_dir / "envs.py").read_text()
    start = source.index('"VLLM_PLUGINS": lambda: (') + len('"VLLM_PLUGINS": lambda: ')
    expression = source[start : source.index("),\n", start) + 1]
    for setting in (None, "", "foo", "dsa_doctor", "foo,dsa_doctor", "foo, dsa_doctor", "dsa_doctor ", ","):
        environ = {} if setting is None else {"VLLM_PLUGINS": setting}
        allowed = eval(expression, {"os": type("os", (), {"environ": environ})})
        assert allows(setting, "dsa_doctor") == (allowed is None or "dsa_doctor" in allowed), setting


def test_what_is_set_is_recorded_and_redacted(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "foo")
    monkeypatch.setenv("VLLM_USE_DEEP_GEMM", "0")
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "FLASHMLA")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0123abcd-1")
    monkeypatch.setenv("VLLM_API_KEY", "sk-verysecret")
    monkeypatch.setenv("VLLM_DISABLED_KERNELS", "token=abcdef")
    observed = settings.probe(Environment.current())
    assert observed.value.variables == {
        "VLLM_PLUGINS": "foo",
        "CUDA_VISIBLE_DEVICES": "GPU-<uuid>",
        "VLLM_USE_DEEP_GEMM": "0",
        "VLLM_ATTENTION_BACKEND": "FLASHMLA",
        "VLLM_DISABLED_KERNELS": "token=<secret>",
    }
    assert observed.value.unread == ("VLLM_ATTENTION_BACKEND",)
    assert "sk-verysecret" not in observed.model_dump_json()


def test_another_environment_gets_none_of_them(monkeypatch, tmp_path):
    for name in ("VLLM_PLUGINS", "VLLM_USE_DEEP_GEMM", "DSA_DOCTOR_PLUGIN", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("VLLM_CACHE_ROOT", os.fspath(tmp_path))
    current = Environment.current()
    foreign = Environment(python=Path(sys.executable), search_path=current.search_path)
    assert settings.probe(foreign).status == "unknown"
    assert current.hidden_settings() == {}

    def seen(environment):
        script = tmp_path / "names.py"
        script.write_text(
            "import json, os\n"
            "with os.fdopen(int(os.environ['DSA_DOCTOR_ANSWER_FD']), 'w') as stream:\n"
            "    json.dump({'names': sorted(os.environ)}, stream)\n"
        )
        result = run_child(
            os.fspath(script), {}, python=Path(sys.executable), timeout=30, environment=environment.hidden_settings()
        )
        return set(result.answer["names"])

    looked_at = {"VLLM_PLUGINS", "VLLM_USE_DEEP_GEMM", "DSA_DOCTOR_PLUGIN", "CUDA_VISIBLE_DEVICES"}
    assert looked_at <= seen(current)
    assert not looked_at & seen(foreign)
    assert "PATH" in seen(foreign)
    assert "VLLM_CACHE_ROOT" not in seen(foreign)


def test_without_vllm_the_plugin_s_own_are_recorded(monkeypatch, tmp_path):
    monkeypatch.setenv("DSA_DOCTOR_PLUGIN", "off")
    observed = settings.probe(Environment(python=None, search_path=(tmp_path,), own=True))
    assert observed.value.variables == {"DSA_DOCTOR_PLUGIN": "off"}
    assert observed.value.unread == ()
