import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.probes import cuda_toolkit
from dsa_doctor.probes.environment import Environment

VERSION = "echo 'Cuda compilation tools, release 12.8, V12.8.93'"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A machine without any toolkit."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(cuda_toolkit, "_DEFAULT_HOME", tmp_path / "usr-local-cuda")
    return Environment(python=None, search_path=(tmp_path / "site-packages",))


def toolkit(home: Path, body: str = VERSION) -> Path:
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\n{body}\n")
    nvcc.chmod(0o755)
    return nvcc


def test_none(bare: Environment) -> None:
    observation = cuda_toolkit.probe(bare)
    assert observation.status == "absent"
    assert (observation.cause or "").startswith("no CUDA toolkit")


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_by_variable(bare: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    toolkit(tmp_path / "mine")
    toolkit(tmp_path / "usr-local-cuda", "exit 1")
    monkeypatch.setenv(variable, str(tmp_path / "mine"))
    value = cuda_toolkit.probe(bare).value
    assert value is not None
    assert (value.found_by, value.nvcc_version) == (variable, "12.8.93")


def test_a_variable_that_names_no_toolkit_is_not_passed_over(
    bare: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepGEMM takes the variable as it stands, so the toolkit elsewhere would not be used."""
    toolkit(tmp_path / "usr-local-cuda")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    observation = cuda_toolkit.probe(bare)
    assert observation.status == "absent"
    assert "CUDA_HOME is set" in (observation.cause or "")
    assert str(tmp_path) not in observation.model_dump_json()


def test_in_path_then_default_folder_then_wheel(
    bare: Environment, tmp_path: Path, fake_tool: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit(tmp_path / "site-packages" / "nvidia" / "cu13")
    assert getattr(cuda_toolkit.probe(bare).value, "found_by", "") == "pip package nvidia-cuda-nvcc"
    toolkit(tmp_path / "usr-local-cuda")
    (tmp_path / "usr-local-cuda" / "version.json").write_text(json.dumps({"cuda_nvcc": {"version": "13.0.88"}}))
    value = cuda_toolkit.probe(bare).value
    assert value is not None
    assert (value.found_by, value.nvcc_version) == ("default folder", "13.0.88")
    fake_tool("nvcc", VERSION)
    assert getattr(cuda_toolkit.probe(bare).value, "found_by", "") == "PATH"


@pytest.mark.parametrize(
    ("body", "told"), [("exit 3", "exit status 3"), ("sleep 30", "no answer"), ("echo hello", "exit status 0")]
)
def test_nvcc_that_does_not_tell_its_version(
    bare: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    monkeypatch.setattr(cuda_toolkit, "_TIMEOUT", 0.5)
    toolkit(tmp_path / "usr-local-cuda", body)
    (tmp_path / "usr-local-cuda" / "version.json").write_text("[]")
    observation = cuda_toolkit.probe(bare)
    assert observation.value is not None
    assert observation.value.nvcc_version is None
    assert told in observation.evidence[0]


def test_the_compiler_that_nvcc_is_given(bare: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TileLang looks for it: what CXX names, else CC, there or not; else the usual ones."""
    toolkit(tmp_path / "mine")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "mine"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))

    def found() -> bool | None:
        value = cuda_toolkit.probe(bare).value
        assert value is not None
        return value.host_compiler

    assert found() is False
    for name in ("clang++", "mine-g++"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    assert found() is True
    monkeypatch.setenv("CC", "nowhere-gcc -O2")
    assert found() is False
    monkeypatch.setenv("CXX", "mine-g++ -O2")
    assert found() is True
