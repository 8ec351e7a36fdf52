import ast
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import dsa_kernels
from dsa_kernels import gluon_support, sparse_mla
from dsa_kernels.indexer.dispatch import ragged_config
from dsa_kernels.indexer.logits_kernels import ragged_kernel
from dsa_kernels.indexer.ragged import logits_kernel
from dsa_kernels.mhc.interface import kernel_of
from dsa_kernels.sparse_mla.kernels import attend_kernel
from dsa_kernels.targets import running_capability

INVALID = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at planted_memcheck+0x110 in planted.py:21
=========     by thread (0,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 128 errors
"""
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at attend_kernel+0x50 in kernels.py:9
=========     and Write access at merge_kernel(int*)+0x70 in kernels.py:9 [384 hazards]
========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(
    ("tool", "output", "errors", "kernels"),
    [
        ("memcheck", INVALID, 128, ["planted_memcheck"]),
        ("racecheck", RACE, 1, ["attend_kernel", "merge_kernel"]),
        ("racecheck", "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, []),
        ("synccheck", CLEAN, 0, []),
        ("synccheck", "========= COMPUTE-SANITIZER\nkilled\n", -1, []),
    ],
)
def test_reads_what_a_tool_reports(scripts, tool, output, errors, kernels):
    part = scripts("sanitize").Part(tool)
    scripts("sanitize").read_report(part, output)
    assert (part.errors, part.kernels_at_fault) == (errors, kernels)


def test_judges_missing_kernels_errors_failed_cases_and_silent_tools(scripts):
    sanitize = scripts("sanitize")
    good = sanitize.Part("memcheck", {"a": 1}), sanitize.Part("memcheck", {"b": 2})
    assert sanitize.judge(list(good), {"a", "b"}) == []
    assert sanitize.judge(list(good), {"a", "b", "new"}) == ["not launched: new"]
    for bad in ({"errors": 3}, {"errors": -1}, {"failed": ["a case: why"]}):
        assert sanitize.judge([*good, sanitize.Part("memcheck", **bad)], {"a", "b"})


def test_a_tool_that_is_missing_or_dies_fails(scripts, monkeypatch):
    sanitize = scripts("sanitize")
    monkeypatch.setenv("PATH", "/nowhere")
    part = sanitize.run_part("memcheck", ["--part", "0", "--parts", "1"], 30)
    assert part.errors == -1
    assert "not installed" in part.failed[0]
    died = subprocess.CompletedProcess([], sanitize.ERRORS_FOUND, CLEAN, "")
    with mock.patch.object(subprocess, "run", return_value=died):
        assert sanitize.run_part("memcheck", [], 1).errors == -1


def test_kernels_are_what_the_package_launches(scripts):
    capability = running_capability(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    # Kernels of attention, of ragged logits and of mHC's product are chosen among several, launched under another name.
    launched = {variant.kernel.fn.__name__ for variant in sparse_mla.variants(capability)}
    launched |= {attend_kernel.fn.__name__, ragged_kernel.fn.__name__}
    launched |= {kernel_of(name).fn.__name__ for name in (("triton", "mma") if gluon_support.USABLE else ("triton",))}
    config = ragged_config(capability, 32, gluon_support.USABLE)
    launched.add(logits_kernel(config)[0].fn.__name__)
    for path in Path(dsa_kernels.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
            if called and ast.unparse(node.func.value).endswith("_kernel"):
                launched.add(ast.unparse(node.func.value))
    assert len(launched) > 10
    assert launched == scripts("sanitizing.coverage").all_kernels()


@pytest.fixture
def unwritten_reads(monkeypatch):
    """Reads of memory that torch.empty gave and nothing wrote, by kernel (the interpreter's initcheck)."""
    from triton.runtime import interpreter

    found: dict[str, int] = {}
    running = [""]
    load, call = interpreter.InterpreterBuilder.create_masked_load, interpreter.GridExecutor.__call__

    def poisoned(make):
        def empty(*arguments, **named):
            tensor = make(*arguments, **named)
            storage = tensor.untyped_storage()
            storage.copy_(torch.full((storage.nbytes(),), 0xA5, dtype=torch.uint8).untyped_storage())
            return tensor

        return empty

    def watched(builder, pointers, mask, *rest):
        loaded = load(builder, pointers, mask, *rest)
        values = np.ascontiguousarray(np.atleast_1d(loaded.data))
        if values.dtype.itemsize > 1:
            bytes_of = values.view(np.uint8).reshape(*values.shape, -1)
            poison = (bytes_of == 0xA5).all(-1) & np.broadcast_to(np.asarray(mask.data, dtype=bool), values.shape)
            if poison.any():
                found[running[0]] = found.get(running[0], 0) + int(poison.sum())
        return loaded

    def named(executor, *arguments, **keywords):
        running[0] = executor.fn.__name__
        return call(executor, *arguments, **keywords)

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", watched)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", named)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_cases_launch_every_kernel_and_none_reads_what_was_never_written(scripts, device, unwritten_reads):
    if device.type == "cuda":
        pytest.skip("scripts/gpu/sanitize.py does this with compute-sanitizer")
    coverage, cases = scripts("sanitizing.coverage"), scripts("sanitizing.cases").all_cases()
    with coverage.counted_launches() as launches:
        for name, case in cases.items():
            if "300 tokens" not in name and "128 heads" not in name:
                case(device)
    assert set(launches) == coverage.all_kernels()
    assert unwritten_reads == {}


def test_unwritten_reads_are_noticed(scripts, device, unwritten_reads):
    if device.type == "cuda":
        pytest.skip("scripts/gpu/sanitize.py --self-check does this")
    scripts("sanitizing.planted").run_fault("initcheck", device)
    assert unwritten_reads == {"planted_initcheck": 128}
