"""Every default variant on every target, compiled with Triton's own compiler in child processes; no GPU."""

import pytest

from dsa_kernels.aot.table import compile_table
from dsa_kernels.targets import SHARED_MEMORY_LIMIT, VERIFIED_TARGETS
from tests.dsa_kernels.aot.tables import compiled_rows

# The first test that asks for a table waits for all of it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OP = "fp8_paged_mqa_logits"


@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
def test_default_variants_compile_and_fit(capability, once):
    rows = compiled_rows(once, capability)
    assert [f"{row.op} {row.variant}: {row.reason}" for row in rows if not row.ok] == []
    for row in rows:
        assert row.capability == capability
        assert row.registers > 0
        assert row.spill_bytes == 0
        assert row.shared_bytes <= row.shared_limit == SHARED_MEMORY_LIMIT[capability]
        assert row.copies_ok
    assert len({(row.op, row.variant) for row in rows}) == len(rows)


@pytest.mark.parametrize("op", ["sparse_mla_fwd", "sparse_mla_with_kvcache", "hc_prenorm_gemm"])
@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
def test_what_is_tiled_keeps_its_tiles_in_shared_memory(capability, op, once):
    rows = [row for row in compiled_rows(once, capability) if row.op == op]
    assert rows
    # The one warp of what adds up parts exchanges nothing.
    assert all(row.shared_bytes > 0 or row.kernel in ("merge_kernel", "join_kernel") for row in rows)


def test_the_interpreter_and_an_override_do_not_reach_the_compiler(monkeypatch, once):
    whole = [row for row in compiled_rows(once, 80) if row.op == OP]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm86")
    rows = compile_table(80, jobs=2, op=OP)
    assert all(row.ok for row in rows)
    assert {row.shared_limit for row in rows} == {166_912}
    assert rows == whole, "two processes that compile half each deliver the same rows in the same order"
