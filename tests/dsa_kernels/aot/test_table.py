"""Every default variant on every target, compiled with Triton's own compiler in child processes; no GPU."""

import pytest

from dsa_kernels.aot.table import compile_table
from dsa_kernels.targets import SHARED_MEMORY_LIMIT, VERIFIED_TARGETS

OPS = ("sparse_mla_fwd", "sparse_mla_with_kvcache", "hc_prenorm_gemm")


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
def test_default_variants_compile_and_fit(capability, op):
    rows = compile_table(capability, jobs=1, op=op)
    assert rows
    assert [f"{row.variant}: {row.reason}" for row in rows if not row.ok] == []
    for row in rows:
        assert row.capability == capability
        assert row.registers > 0
        assert row.spill_bytes == 0
        assert row.shared_bytes <= row.shared_limit == SHARED_MEMORY_LIMIT[capability]
        # The one warp of the merge exchanges nothing.
        assert row.shared_bytes > 0 or row.kernel == "merge_kernel"
        assert row.copies_ok
    assert len({(row.op, row.variant) for row in rows}) == len(rows)


@pytest.mark.slow
def test_the_interpreter_and_an_override_do_not_reach_the_compiler(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm86")
    rows = compile_table(80, jobs=1, op="sparse_mla_fwd")
    assert all(row.ok for row in rows)
    assert {row.shared_limit for row in rows} == {166_912}
