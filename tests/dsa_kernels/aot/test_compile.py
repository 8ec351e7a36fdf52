import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsa_kernels.aot import KernelVariant, compile_variant, sass
from dsa_kernels.aot.compile import source_of
from dsa_kernels.aot.table import _child_environment


@pytest.fixture(scope="module")
def reports():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("faults.py"))],
        capture_output=True,
        text=True,
        env=_child_environment(),
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["aligned", "narrow but nobody asked"])
def test_sound_variants_pass(reports, name):
    assert reports[name]["ok"], reports[name]
    assert reports[name]["reason"] == ""
    assert reports[name]["registers"] > 0


def test_narrow_copies_are_seen(reports):
    assert not reports["not aligned"]["ok"]
    assert "not 16 bytes wide" in reports["not aligned"]["reason"]


def test_too_much_shared_memory_is_seen(reports):
    assert not reports["too large"]["ok"]
    assert "166912" in reports["too large"]["reason"]


def test_spills_are_seen(reports):
    assert not reports["one warp"]["ok"]
    assert reports["one warp"]["spill_bytes"] > 0
    assert "spills" in reports["one warp"]["reason"]


def test_a_limit_of_registers_is_compiled_with(reports):
    assert reports["four warps"]["ok"]
    assert reports["four warps"]["registers"] > 32
    assert reports["few registers"]["registers"] <= 32
    assert "spills" in reports["few registers"]["reason"]


def test_what_does_not_compile_is_a_report_with_the_reason(reports):
    assert not reports["float8"]["ok"]
    assert "fp8e4nv not supported in this architecture" in reports["float8"]["reason"]
    assert not reports["wrong signature"]["ok"]
    assert "signature" in reports["wrong signature"]["reason"]


def test_an_interpreted_kernel_is_a_report_too(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    report = compile_variant(KernelVariant("op", "name", None, {}, {}, frozenset(), 4, 2, False), 80)
    assert not report.ok
    assert "TRITON_INTERPRET" in report.reason


def test_the_source_is_the_same_in_every_process():
    """Triton's cache key holds the order of the attributes; that of a set of names differs by process."""
    names = [f"argument_{number}" for number in range(12)]
    kernel = SimpleNamespace(__name__="kernel", arg_names=names)
    source = source_of(
        KernelVariant("op", "name", kernel, dict.fromkeys(names, "i32"), {}, frozenset(names), 4, 2, False)
    )
    assert list(source.attrs) == [(number,) for number in range(12)]


SASS = """
        /*0000*/                   LDG.E.U16 R0, [R2.64] ;
        /*0010*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ;
        /*0020*/              @!P0 LDG.E.CONSTANT R7, [R8.64] ;
        /*0030*/               @P0 BRA 0x10 ;
        /*0040*/                   LDG.E.64 R0, [R2.64] ;
        /*0050*/                   BRA 0x50;
"""


def test_only_loads_inside_a_loop_count():
    loads = sass.loop_loads(SASS)
    assert loads.by_width == ((4, 1), (16, 1))
    assert loads.narrowest == 4
    assert loads.wide_share == pytest.approx(0.8)
