"""The plan that the command knows without importing torch is that of the kernels."""

import pytest

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.verify.plan import GROUPS, OPS, groups_of
from dsa_kernels import selftest


def test_groups_and_ops_are_those_of_the_kernels():
    real = {group.name: {case.op for case in group.cases} for group in selftest.GROUPS}
    assert {name: set(ops) for name, ops in GROUPS.items()} == real
    assert {op.name: op.about for op in OPS} == selftest.OPS


def test_names_of_cases_are_unique_within_a_group():
    for group in selftest.GROUPS:
        names = [case.name for case in group.cases]
        assert len(set(names)) == len(names), group.name


def test_every_op_names_a_finding_that_is_known():
    assert {op.finding for op in OPS} == {"DSA214", "DSA309", "DSA902"}
    assert all(op.finding in FINDINGS_BY_ID for op in OPS)


def test_groups_of_ops():
    assert groups_of(()) == tuple(GROUPS)
    assert groups_of(("fp8",)) == ("far", "fp8")
    with pytest.raises(ValueError, match="accepted: sparse_mla, indexer_logits"):
        groups_of(("flash",))
