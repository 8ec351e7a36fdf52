"""Small functions in vLLM's style, and which way they go for a capability and a backend."""

import ast

import pytest

from dsa_doctor.compat.decisions import Situation, answer, outcomes

PICKER = """
def pick(vllm_config):
    backend = vllm_config.attention_config.backend
    if vllm_config.parallel_config.prefill_context_parallel_size > 1:
        return OnlyWithContextParallel
    device_capability = current_platform.get_device_capability()
    if backend in (AttentionBackendEnum.A, AttentionBackendEnum.B):
        raise ValueError(f"{backend.name} is no backend. " "Use C.")
    if backend is AttentionBackendEnum.C:
        if device_capability is not None and device_capability.major == 12:
            return OnTwelve
        return NotOnTwelve
    if current_platform.is_device_capability_family(100) and Fast.is_available_for(vllm_config):
        return Fast
    return Slow
"""


def function(text):
    return ast.parse(text).body[0]


@pytest.mark.parametrize(
    ("capability", "backend", "expected"),
    [
        ((8, 0), None, ["Slow"]),
        ((10, 3), None, ["Fast", "Slow"]),  # what the class says of itself stays open
        ((12, 1), "C", ["OnTwelve"]),
        ((9, 0), "C", ["NotOnTwelve"]),
        ((9, 0), "D", ["Slow"]),
    ],
)
def test_a_picker(capability, backend, expected):
    assert [one.returns for one in outcomes(function(PICKER), Situation(capability, backend))] == expected


def test_a_refusal_keeps_vllm_s_words():
    (refused,) = outcomes(function(PICKER), Situation((9, 0), "A"))
    assert (refused.returns, refused.raises) == (None, "is no backend. Use C.")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return capability.major in [9, 10]", {(8, 9): False, (9, 0): True, (10, 3): True, (12, 0): False}),
        ("return capability.major == 10", {(9, 0): False, (10, 0): True}),
        ("return capability >= (8, 9)", {(8, 0): False, (8, 9): True}),
        ("return capability in cls.known", {(8, 0): None}),  # not understood is not guessed
        ("return capability == (9, 0)", {(9, 0): True, (8, 0): False}),
        ("return capability in ((8, 0), (9, 0))", {(9, 0): True, (8, 6): False}),
        ("return current_platform.has_device_capability(90)", {(8, 9): False, (9, 0): True, (12, 0): True}),
        ("return current_platform.is_device_capability((10, 3))", {(10, 3): True, (10, 0): False}),
        ("return not capability.major < 9", {(8, 9): False, (9, 0): True}),
        ("return True", {(8, 0): True}),
        ("return cls.flag or capability.major == 9", {(9, 0): True, (8, 0): None}),
        ("if cls.flag:\n        return False\n    return True", {(9, 0): None}),
        ("pass", {(9, 0): None}),
    ],
)
def test_what_a_backend_says_of_itself(body, expected):
    parsed = function(f"def supports_compute_capability(cls, capability):\n    {body}\n")
    assert {one: answer(parsed, Situation(one)) for one in expected} == expected
