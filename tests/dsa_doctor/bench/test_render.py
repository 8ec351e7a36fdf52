import json
import os
from pathlib import Path

import pytest

from dsa_doctor.bench.render import as_human, as_json
from tests.dsa_doctor.bench.samples import MACHINE, SM80, report_with

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "machine"), [("native", MACHINE), ("sm80", SM80)])
def test_the_report_is_as_kept(name, machine):
    text = as_human(report_with(machine=machine))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_no_line_is_wider_than_80_columns():
    assert max(len(line) for line in as_human(report_with(machine=SM80)).splitlines()) <= 80


def test_an_emulated_run_is_never_called_an_a100_run():
    text = " ".join(as_human(report_with(machine=SM80)).split())
    assert "sm80 pipeline on Sample GPU 80GB, not an A100" in text
    assert text.count("A100") == 1
    assert "pipeline" not in as_human(report_with())


@pytest.mark.parametrize("status", ["wrong", "failed", "skipped"])
def test_only_a_right_result_has_a_speed(status):
    report = report_with(status=status)
    assert f"{status.upper()}, no speed:" in as_human(report)
    row = json.loads(as_json(report))["results"][0]
    assert [row[key] for key in ("timing", "share_of_floor", "gb_per_s", "tflop_per_s")] == [None] * 4


def test_the_json_holds_everything():
    content = json.loads(as_json(report_with()))
    assert (content["format"], content["version"], content["ok"], content["seconds"]) == (
        "dsa-kernels-benchmark",
        1,
        False,
        41.4,
    )
    assert content["machine"]["pipeline"] == "native"
    assert content["setting"]["batch_sizes"] == [1, 16, 64]
    paged = content["results"][-1]
    assert paged["timing"] == {"median_us": 180.0, "low_us": 171.0, "high_us": pytest.approx(198.0), "samples": 20}
    assert paged["share_of_floor"] == pytest.approx(2.9e8 / 2e12 * 1e6 / 180)
    assert paged["gb_per_s"] == pytest.approx(2.9e8 / 180e-6 / 1e9)
    assert paged["tflop_per_s"] == pytest.approx(3.4e10 / 180e-6 / 1e12)
    assert paged["peers"]["DeepGEMM"]["timing"]["median_us"] == 100.0
    assert paged["peers"]["torch"] == {"timing": None, "message": "ImportError: no"}
