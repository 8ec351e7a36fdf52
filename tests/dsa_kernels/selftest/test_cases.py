"""Every case of the self-test, small, passes on ops that are right."""

import pytest

from dsa_kernels.selftest import GROUPS, Place, run_case

CASES = [(group.name, case) for group in GROUPS if group.name != "wheel" for case in group.cases]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for _, case in CASES], ids=[f"{name}: {case.name}" for name, case in CASES])
def test_passes(device, case):
    record = run_case(case, Place(device, full=False))
    assert record.status == "pass", f"{record.expected} | {record.got}"
    assert record.error is not None
    assert record.limit is not None
    assert record.error <= record.limit
