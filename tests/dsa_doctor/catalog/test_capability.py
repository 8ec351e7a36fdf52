import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_doctor.catalog.capability import (
    SHARED_MEMORY_PER_BLOCK,
    Capability,
    code_runs_on,
    deep_gemm_supports,
    has_wide_shared_memory,
    plugin_serves,
    triton_has_e4m3,
)


@pytest.mark.parametrize("text", ["8.0", "sm80", "sm_80", "80", "SM_80", "compute_80", " 8.0 "])
def test_parse(text):
    assert Capability.parse(text) == (8, 0)


def test_parse_two_digit_major():
    assert Capability.parse("sm120") == Capability.parse("12.0") == (12, 0)
    assert Capability.parse("sm_90a") == (9, 0)


@pytest.mark.parametrize("text", ["", "a100", "8", "8.0.0", "sm", "8,0", "-8.0"])
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="compute capability"):
        Capability.parse(text)


# CUDA C++ Programming Guide: binary compatibility within a major version, upwards; PTX upwards; `a` nowhere else.
@pytest.mark.parametrize(
    ("architecture", "kind", "capability", "runs"),
    [
        ("sm_80", "machine_code", "8.0", True),
        ("sm_80", "machine_code", "8.6", True),
        ("sm_80", "machine_code", "8.9", True),
        ("sm_86", "machine_code", "8.0", False),
        ("sm_80", "machine_code", "9.0", False),
        ("sm_90", "machine_code", "8.9", False),
        ("sm_90a", "machine_code", "9.0", True),
        ("sm_100a", "machine_code", "10.3", False),
        ("sm_100f", "machine_code", "10.3", True),
        ("sm_100f", "machine_code", "12.0", False),
        ("sm_100", "machine_code", "10.3", True),
        ("sm_80", "ptx", "9.0", True),
        ("sm_80", "ptx", "12.1", True),
        ("sm_90", "ptx", "8.0", False),
        ("sm_90a", "ptx", "9.0", True),
        ("sm_90a", "ptx", "10.0", False),
        ("sm_120", "machine_code", "12.1", True),
        ("nonsense", "ptx", "9.0", False),
    ],
)
def test_code_runs_on(architecture, kind, capability, runs):
    assert code_runs_on(architecture, kind, Capability.parse(capability)) is runs


def test_predicates_at_their_edges():
    assert next(str(one) for one in sorted(SHARED_MEMORY_PER_BLOCK) if triton_has_e4m3(one)) == "8.9"
    assert {str(one) for one in SHARED_MEMORY_PER_BLOCK if deep_gemm_supports(one)} == {"9.0", "10.0", "10.3"}
    assert {str(one) for one in SHARED_MEMORY_PER_BLOCK if plugin_serves(one) == "default"} == {
        "8.0",
        "8.6",
        "8.7",
        "8.9",
    }
    assert {str(one) for one in SHARED_MEMORY_PER_BLOCK if plugin_serves(one) == "on request"} == {"12.0", "12.1"}
    assert has_wide_shared_memory(Capability(8, 0))
    assert not has_wide_shared_memory(Capability(8, 6))
    assert not has_wide_shared_memory(Capability(99, 9))


ROOT = Path(__file__).parents[3]
COMPARED_IN = {"dsa_doctor/catalog/capability.py", "kernels/dsa_kernels/targets.py"}


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return all(_is_number(one) for one in node.elts)
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "Capability"
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def comparisons(source: str) -> Iterator[str]:
    """Yield what compares a capability with numbers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(_is_number, sides)) and any("capability" in ast.unparse(one) for one in sides):
                yield ast.unparse(node)


def test_capabilities_are_compared_in_one_module_of_each_package():
    found = {
        file.relative_to(ROOT).as_posix()
        for package in ("dsa_doctor", "kernels/dsa_kernels")
        for file in (ROOT / package).rglob("*.py")
        if any(comparisons(file.read_text(encoding="utf-8")))
    }
    assert found == COMPARED_IN


@pytest.mark.parametrize(
    "source",
    ["capability < 100", "8 <= properties.capability[0] < 12", "found.capability in ((8, 0), (8, 6))",
     "case.capability == Capability(8, 0)", "capability.major == 8"],
)  # fmt: skip
def test_a_comparison_elsewhere_is_seen(source):
    assert list(comparisons(source)) == [source]


@pytest.mark.parametrize("source", ["capability >= vllm_minimum()", "capability in table", "len(names) > 3"])
def test_what_compares_no_number_is_none(source):
    assert not list(comparisons(source))
