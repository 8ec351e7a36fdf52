"""Each way in which a launch can go wrong ends with the right status and the reason, and leaves no process."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.dsa_doctor.launch.faults import FAULTS, KEPT, table, wait_until_nothing_is_left

PAGE = Path(__file__).parents[3] / "docs" / "run-model.md"
BEGIN, END = "<!-- table of faults: begin -->\n", "\n<!-- table of faults: end -->"


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{one.name}, {one.stage}" for one in FAULTS])
def test_a_fault_ends_as_the_table_says(run, fault):
    one = fault.play(run)
    said = fault.said.replace("{port}", str(one.port))
    if fault.status is KEPT:
        one.wait_for(said)
        time.sleep(1)  # nothing is to happen, and that has no event
        assert one.process.poll() is None
        assert "stopping" not in one.said()
        one.signal(signal.SIGTERM)
        assert one.wait() == 143
    else:
        assert one.wait() == fault.status, one.said()
        assert said in one.said(), one.said()
        if fault.status >= 0 and one.pids("server"):
            assert one.said().splitlines()[-1] == f"dsa-doctor: exit code {fault.status}"
    wait_until_nothing_is_left(one)
    assert one.left() == []
    assert "Traceback" not in one.said()


def test_the_table_in_the_documentation_is_this_one():
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    shown, end, after = rest.partition(END)
    assert begin
    assert end
    if os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN") == "1":
        PAGE.write_text(f"{before}{begin}{table()}{end}{after}", encoding="utf-8")
        return
    assert shown == table(), "DSA_DOCTOR_UPDATE_GOLDEN=1 pytest tests/dsa_doctor/launch/test_faults.py draws it anew"
