"""The line that pins vLLM, in the files that projects pin it in."""

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.policy.manifest import ManifestError, find_pin

REQUIREMENTS = """\
# vllm==0.1.0 is what we had
--extra-index-url https://example.com/simple
vllm-router==1.0
torch==2.13.0
vLLM[flashinfer] == 0.32.0 ; python_version >= "3.10"  # pinned
vllm==0.33.0
"""
PYPROJECT = """\
[project]
name = "serving"
dependencies = [
  # "vllm==0.1.0",
  "vllm-router>=1",
  "torch", "vllm>=0.32,<0.33",
]
"""
POETRY = """\
[tool.poetry.dependencies]
python = "^3.11"
vllm = { version = "0.32.0", extras = ["flashinfer"] }
"""
DOCKERFILE = """\
# FROM vllm/vllm-openai:v0.1
ARG TAG=v0.30.0
FROM --platform=linux/amd64 vllm/vllm-openai:v0.32.0 AS base
RUN pip install --no-cache-dir dsa-doctor && \\
    pip install "vllm==0.33.0"
FROM ubuntu:24.04
"""


@pytest.mark.parametrize(
    ("name", "text", "line", "requirement"),
    [
        ("requirements.txt", REQUIREMENTS, 5, 'vLLM[flashinfer] == 0.32.0 ; python_version >= "3.10"'),
        ("requirements.txt", "vllm==0.32.0 --hash=sha256:00\n", 1, "vllm==0.32.0"),
        ("requirements.txt", "vllm==0.32.0 \\\n  --hash=sha256:00\n", 1, "vllm==0.32.0"),
        (
            "requirements.txt",
            "\n./dist/vllm-0.33.0-cp38-abi3-linux_x86_64.whl\n",
            2,
            "vllm-0.33.0-cp38-abi3-linux_x86_64.whl",
        ),
        ("requirements.in", "vllm @ https://example.com/vllm.tar.gz\n", 1, "vllm @ https://example.com/vllm.tar.gz"),
        ("pyproject.toml", PYPROJECT, 6, "vllm>=0.32,<0.33"),
        ("pyproject.toml", POETRY, 3, 'vllm = { version = "0.32.0", extras = ["flashinfer"] }'),
        ("Dockerfile", DOCKERFILE, 5, "vllm==0.33.0"),
        ("gpu.Dockerfile", "FROM vllm/vllm-openai:v0.32.0\n", 1, "vllm/vllm-openai:v0.32.0"),
        (
            "Containerfile",
            "from registry.example.com/team/vllm@sha256:00 as x\n",
            1,
            "registry.example.com/team/vllm@sha256:00",
        ),
    ],
)
def test_the_line_that_pins(tmp_path, monkeypatch, name, text, line, requirement):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy").mkdir()
    path = tmp_path / "deploy" / name
    path.write_text(text)
    pin = find_pin(path)
    assert (pin.file, pin.line) == (f"deploy/{name}", line)
    assert pin.requirement == requirement
    assert pin.text == text.splitlines()[line - 1].strip()


def test_a_file_outside_of_the_folder_is_named_without_its_path(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "requirements.txt"
    path.write_text("vllm\n")
    assert find_pin(path).file == "requirements.txt"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "vllm-router==1\n# vllm==0.32\nvllmx\n-r vllm.txt\n"),
        ("pyproject.toml", "[project]\nname = 'myvllm'\nkeywords = ['uses vllm at run time']\n"),
        ("Dockerfile", "FROM ubuntu:24.04\nRUN echo vllm-is-nice\n"),
        ("requirements.txt", ""),
    ],
)
def test_a_file_that_does_not_name_vllm(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=r"no line names vLLM\. Accepted: the requirements\.txt"):
        find_pin(tmp_path / name)


def test_a_manifest_that_never_ends_is_refused():
    with pytest.raises(ManifestError, match="it is a device"):
        find_pin(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", "Dockerfile"])
def test_the_longest_lines_take_no_time(tmp_path, name):
    (tmp_path / name).write_text(
        "\n".join(["vllm-1" * 100_000, "FROM " + "--a " * 100_000, "vllm==0.32.0", "'" * 99_999])
    )
    start = time.monotonic()
    with contextlib.suppress(ManifestError):
        find_pin(tmp_path / name)
    assert time.monotonic() - start < 5


def test_a_manifest_in_another_encoding_is_read(tmp_path):
    (tmp_path / "requirements.txt").write_bytes("vllm==0.32.0\n".encode("utf-16"))
    assert find_pin(tmp_path / "requirements.txt").requirement == "vllm==0.32.0"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        find_pin(tmp_path / "requirements.txt")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["requirements.txt", "pyproject.toml", "Dockerfile"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("manifest") / name
    path.write_bytes(b"# " + data + b"\nvllm==0.32.0\n")
    try:
        pin = find_pin(path)
    except ManifestError:
        assert name != "requirements.txt"
    else:
        assert pin.line >= 1
