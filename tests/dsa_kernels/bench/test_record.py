import json
import math
from dataclasses import replace

import pytest
import torch

from dsa_kernels.bench import (
    Case,
    GateError,
    Machine,
    Peer,
    Result,
    Timing,
    Work,
    case,
    measure,
    relative_error,
    require,
    require_equal,
    time_calls,
    timing,
)
from dsa_kernels.bench.record import as_record, headline, line, read_record, write_record

MACHINE = Machine("Sample", "9.0", "", "1", "2", "3", copy_bytes_per_s=1e12, bf16_flop_per_s=1e14, l2_bytes=2**20)


@pytest.fixture
def clock(monkeypatch):
    """A clock that calls everything once and says 10 µs."""

    def timed(calls, milliseconds):
        for call in calls:
            call()
        return Timing(10.0, 9.0, 12.0, 8)

    monkeypatch.setattr(case, "time_calls", timed)


def made(check=lambda: 1e-7, call=lambda: None, **more):
    return Case("op", {"rows": 2}, Work(2e6, 3e8), 1e-5, check, [call], **more)


def test_a_right_case_is_timed_with_its_floors(clock):
    found = measure(made(), MACHINE)
    assert (found.status, found.error, found.floor_us, found.share) == ("ok", 1e-7, 3.0, 0.3)
    assert found.gb_per_s == pytest.approx(200.0)
    assert found.tflop_per_s == pytest.approx(30.0)


def test_a_case_is_never_timed_when_its_gate_fails(clock):
    def check():
        raise GateError("op: relative error 2e-1", 0.2)

    found = measure(made(check, call=lambda: pytest.fail("timed")), MACHINE)
    assert (found.status, found.error, found.message, found.timing) == ("wrong", 0.2, "op: relative error 2e-1", None)
    assert (found.share, found.gb_per_s, found.tflop_per_s) == (None, None, None)


def test_what_does_not_run_says_so_in_one_line(clock):
    def call():
        raise RuntimeError("CUDA error: no kernel image\nCompile with ...")

    found = measure(made(call=call), MACHINE)
    assert (found.status, found.message) == ("failed", "RuntimeError: CUDA error: no kernel image")


def test_a_peer_that_is_wrong_or_missing_has_no_time(clock):
    def wrong():
        raise GateError("peer: relative error 1")

    peers = {"good": Peer([lambda: None], lambda: 0.0), "wrong": Peer([lambda: None], wrong), "missing": "no wheel"}
    found = measure(made(peers=peers), MACHINE)
    assert {name: one.timing is not None for name, one in found.peers.items()} == {
        "good": True,
        "wrong": False,
        "missing": False,
    }
    assert found.peers["wrong"].message == "GateError: peer: relative error 1"
    assert found.peers["missing"].message == "no wheel"
    assert "good 10.0 (1.00x), wrong -, missing -" in line(found)


def test_a_record_comes_back_from_its_file(tmp_path, clock):
    results = [measure(made(), MACHINE), Result("op", {}, "wrong", 0.1, error=math.nan, message="no")]
    path = tmp_path / "new" / "run.json"
    write_record(path, as_record("sample", replace(MACHINE, override_arch="sm80"), results))
    assert "NaN" not in path.read_text()
    record = read_record(path)
    assert record["machine"]["pipeline"] == "sm80 pipeline on Sample, not an A100"
    assert record["results"][0]["timing"] == {"median_us": 10.0, "low_us": 9.0, "high_us": 12.0, "samples": 8}
    assert record["results"][1]["error"] is None


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"format": "dsa-kernels-benchmark", "version": 99})])
def test_what_is_no_record_is_named(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"file\.json: .*--json wrote"):
        read_record(path)


def test_the_line_of_a_wrong_result_holds_no_time():
    text = line(Result("op", {"rows": 2}, "wrong", 0.1, message="relative error 1"))
    assert text.split() == ["WRONG", "op:", "rows", "2:", "relative", "error", "1"]


@pytest.mark.parametrize(
    ("override", "words"), [("", "native"), ("sm80", "sm80 pipeline on Sample, not an A100"), ("sm89", "sm89 pipeline")]
)
def test_a_pipeline_is_called_what_it_is(override, words):
    assert words in headline(replace(MACHINE, override_arch=override))


def test_percentiles_of_known_samples():
    found = timing.summarise([float(one) for one in range(1, 102)])
    assert found == Timing(51.0, 11.0, 91.0, 101)


def test_the_gate_compares_masks_before_values():
    inf = float("-inf")
    assert relative_error(torch.tensor([1.0, inf]), torch.tensor([1.0, inf])) == 0.0
    assert math.isnan(relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, inf])))
    assert relative_error(torch.tensor([3.0]), torch.tensor([4.0])) == 0.25
    assert relative_error(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5
    with pytest.raises(GateError, match=r"relative error 2\.50e-01, allowed 1e-01") as caught:
        require("x", torch.tensor([3.0]), torch.tensor([4.0]), 0.1)
    assert caught.value.error == 0.25
    with pytest.raises(GateError, match="relative error nan"):
        require("x", torch.tensor([math.nan]), torch.tensor([4.0]), 0.1)
    with pytest.raises(GateError, match="1 of 2 elements differ"):
        require_equal("x", torch.tensor([3, 4]), torch.tensor([3, 5]))


@pytest.mark.gpu
def test_a_copy_takes_as_long_as_it_must():
    source = torch.randn(2**26, device="cuda")
    target = torch.empty_like(source)
    found = time_calls([lambda: target.copy_(source)], 20.0)
    assert found.low_us <= found.median_us <= found.high_us
    assert 20 < found.median_us < 10_000
    assert torch.equal(source, target)
