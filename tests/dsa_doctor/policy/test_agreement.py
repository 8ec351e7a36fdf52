"""A gate on facts of another vLLM than the pinned one does not pass."""

from datetime import date

import pytest

from dsa_doctor.catalog.models import find_model
from dsa_doctor.policy import Policy, Suppression, apply_policy
from dsa_doctor.policy.agreement import agreement
from dsa_doctor.policy.report import ManifestPin
from dsa_doctor.resolver import Request, Target, resolve
from tests.dsa_doctor import facts_library as library

TODAY = date(2026, 3, 1)
H100 = Target(name="NVIDIA H100 80GB HBM3", capability="9.0", source="--target", count=8)


@pytest.mark.parametrize(
    ("requirement", "version", "agrees"),
    [
        ("vllm==0.33.0", "0.33.0", True),
        ("vllm==0.26.0", "0.33.0", False),
        ('vLLM[flashinfer] == 0.32.0 ; python_version >= "3.10"', "0.32.0", True),
        ("vllm>=0.32,<0.33", "0.32.4", True),
        ("vllm>=0.32,<0.33", "0.33.0", False),
        ("vllm", "0.33.0", True),  # any version is what it asks for
        ("vllm==0.33.0", "0.33.0+cu129", True),
        ("vllm==0.33.0+cu129", "0.33.0+cu130", False),
        ("vllm>=0.33", "0.34.0rc1", True),
        ("vllm-0.33.0-cp38-abi3-manylinux_2_31_x86_64.whl", "0.33.0", True),
        ("vllm-0.33.0+cu129-cp38-abi3-manylinux_2_31_x86_64.whl", "0.33.0", True),
        ("vllm-0.26.0-cp38-abi3-manylinux_2_31_x86_64.whl", "0.33.0", False),
        ("vllm @ https://host/vllm-0.26.0-cp38-abi3-linux_x86_64.whl", "0.33.0", False),
        ("vllm @ git+https://host/vllm.git@abc", "0.33.0", None),
        ("vllm/vllm-openai:v0.33.0", "0.33.0", True),
        ("registry:5000/vllm/vllm-openai:v0.26.0", "0.33.0", False),
        ("registry:5000/vllm/vllm-openai", "0.33.0", None),
        ("vllm/vllm-openai:v0.33.0@sha256:" + "0" * 64, "0.33.0", True),
        ("vllm/vllm-openai:v0.33.0-cu129", "0.33.0", True),
        ("vllm/vllm-openai:latest", "0.33.0", None),
        ("vllm/vllm-openai:${TAG}", "0.33.0", None),
        ('vllm = "0.32.0"', "0.32.0", True),
        ('vllm = "^0.32"', "0.32.9", True),
        ('vllm = "^0.32.1"', "0.33.0", False),
        ('vllm = "^1.2"', "1.9.0", True),
        ('vllm = "~0.32.1"', "0.32.9", True),
        ('vllm = "~0.32.1"', "0.33.0", False),
        ('vllm = { version = "0.32.0", extras = ["flashinfer"] }', "0.33.0", False),
        ("vllm==0.33.0", "not a version", None),
    ],
)
def test_pins(requirement, version, agrees):
    assert agreement(requirement, version).agrees is agrees


def report(requirement, *, policy=None, facts=None):
    verdict = resolve(
        facts or library.h100_facts(), model=find_model("GLM-5-FP8").geometry(), target=H100, request=Request()
    )
    pin = ManifestPin(file="requirements.txt", line=3, text=requirement, requirement=requirement)
    return apply_policy([(None, verdict)], policy or Policy(), today=TODAY, manifest=pin)


def said(found):
    return [(one.status, one.evidence) for one in found.verdicts[0].findings if one.id == "DSA918"]


def test_stale_facts_do_not_pass():
    found = report("vllm==0.26.0")
    assert found.exit_code == 32
    assert said(found) == [("fail", ("requirements.txt, line 3: vllm==0.26.0",))]
    assert "0.32.0 was judged" in found.verdicts[0].findings[-1].summary
    assert report("vllm==0.32.0").exit_code == 0
    assert said(report("vllm==0.32.0")) == []


def test_the_bits_of_what_fails_besides_stay():
    facts = library.h100_facts(answers=(library.answer("9.0", None),))
    assert report("vllm==0.26.0", facts=facts).exit_code == 8


def test_a_pin_without_a_version_warns_and_is_strict_s_failure():
    assert report("vllm/vllm-openai:latest").exit_code == 0
    assert said(report("vllm/vllm-openai:latest"))[0][0] == "warn"
    assert report("vllm/vllm-openai:latest", policy=Policy(strict=True)).exit_code == 32


def test_it_can_be_suppressed_until_a_day():
    tolerated = Suppression(id="DSA918", reason="the image follows on Monday", expires=date(2026, 3, 2))
    assert report("vllm==0.26.0", policy=Policy(source="p.toml", suppressions=(tolerated,))).exit_code == 0
