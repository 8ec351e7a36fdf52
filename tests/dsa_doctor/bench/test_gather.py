"""The whole command without a GPU: real ops under the interpreter on small shapes, only the clock is a stand-in."""

import json

import pytest
import torch
from typer.testing import CliRunner

from dsa_doctor.bench import Load, gather, setting_of
from dsa_doctor.bench.render import as_human
from dsa_doctor.bench.shapes import Fit
from dsa_doctor.catalog.models import find_model
from dsa_doctor.cli.app import app
from dsa_kernels.bench import Timing, indexer_cases
from dsa_kernels.bench import case as case_module
from tests.dsa_doctor.bench.samples import MACHINE, report_with
from tests.dsa_kernels.conftest import ON_GPU  # teaches the interpreter bf16

SMALL = Load(tensor_parallel_size=32, context=100, batch_sizes=(1, 2), prefill_tokens=3, speculative_tokens=1)


@pytest.fixture
def no_gpu_needed(monkeypatch):
    """Small machine, a clock that calls once, tensors on the CPU."""
    import dsa_kernels.bench as bench

    if not ON_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # the kernels were defined under it; see tests/conftest.py
    real = gather.case_of

    def timed(calls, milliseconds):
        calls[0]()
        return Timing(10.0, 9.0, 12.0, 8)

    monkeypatch.setattr(case_module, "time_calls", timed)
    monkeypatch.setattr(bench, "measure_machine", lambda milliseconds: MACHINE)
    monkeypatch.setattr(gather, "require_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**33, 2**33))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        gather, "case_of", lambda shape, setting, fit, l2: real(shape, setting, fit, 1, "cuda" if ON_GPU else "cpu")
    )


def only(monkeypatch, *ops):
    """Measure these ops alone."""
    real = gather.shapes_of
    monkeypatch.setattr(gather, "shapes_of", lambda setting: [one for one in real(setting) if one.op in ops])


def small_setting(name="GLM-5-FP8", **changes):
    load = Load(**(vars(SMALL) | changes))
    geometry = find_model(name).geometry().model_copy(update={"index_topk": 32, "index_n_heads": 4})
    return setting_of(geometry, load)


@pytest.mark.parametrize("changes", [{}, {"kv_cache_dtype": "fp8_ds_mla"}], ids=["bf16", "fp8"])
def test_every_shape_of_a_model_passes_its_gate(no_gpu_needed, changes):
    report = gather.gather(small_setting(**changes), quick=True)
    assert [one.message for one in report.results if one.status != "ok"] == []
    assert report.exit_code == 0
    assert {one.op for one in report.results} == set(gather.OPS)
    assert all(one.timing is not None and one.moved_bytes > 0 for one in report.results)


def test_what_batch_invariance_costs_stands_beside_the_ops_that_take_it(no_gpu_needed, monkeypatch):
    only(monkeypatch, "sparse MLA decode", "sparse MLA prefill", "paged logits", "k-cache write")
    asked = []
    real = indexer_cases.fp8_paged_mqa_logits
    monkeypatch.setattr(
        indexer_cases,
        "fp8_paged_mqa_logits",
        lambda *given, **more: asked.append(more["batch_invariant"]) or real(*given, **more),
    )
    report = gather.gather(small_setting(batch_invariant=True), quick=True)
    beside = {one.op: one.peers["batch-invariant"].timing for one in report.results if one.peers}
    assert set(beside) == {"sparse MLA decode", "sparse MLA prefill", "paged logits"}
    assert all(beside.values())
    assert set(asked) == {False, True}
    assert "batch-invariant: 10.0, 1.00 times as long" in as_human(report)
    assert not any(one.peers for one in gather.gather(small_setting(), quick=True).results)


def test_a_wrong_op_has_no_speed_and_fails_the_run(no_gpu_needed, monkeypatch):
    real = indexer_cases.topk_indices

    def wrong(logits, starts, ends, k, out):
        found = real(logits, starts, ends, k, out=out)
        found[-1, 0] = found[-1, 1]
        return found

    monkeypatch.setattr(indexer_cases, "topk_indices", wrong)
    only(monkeypatch, "top-k", "k-cache write")
    report = gather.gather(small_setting(), quick=True)
    assert report.exit_code == 3
    assert {one.op for one in report.bad} == {"top-k"}
    assert all(one.timing is None and one.status == "wrong" for one in report.bad)
    text = as_human(report)
    assert "elements differ" in " ".join(text.split())
    assert not [
        line for line in text.splitlines() if line.startswith("  rows") and "WRONG" not in line and "/s" in line
    ]


def test_an_op_that_raises_fails_the_run_and_the_others_still_run(no_gpu_needed, monkeypatch):
    def raises(*args, **kwargs):
        raise RuntimeError("no such instruction\nmore")

    monkeypatch.setattr(indexer_cases, "fp8_mqa_logits", raises)
    only(monkeypatch, "ragged logits", "k-cache write")
    report = gather.gather(small_setting(), quick=True)
    failed = [one for one in report.results if one.status == "failed"]
    assert [one.op for one in failed] == ["ragged logits"]
    assert failed[0].message == "RuntimeError: no such instruction"
    assert report.exit_code == 3
    assert report.results[-1].status == "ok"


def test_what_does_not_fit_is_skipped_by_name(no_gpu_needed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**20, 2**33))
    report = gather.gather(small_setting(), quick=True)
    skipped = [one for one in report.results if one.status == "skipped"]
    assert "sparse MLA prefill" in {one.op for one in skipped}
    assert "GiB of free GPU memory" in skipped[0].message


def test_requests_share_rows_where_memory_is_short_and_the_report_says_so(no_gpu_needed, monkeypatch):
    real = gather.fit
    monkeypatch.setattr(
        gather, "fit", lambda shape, setting, free: Fit(192, 256, 0) if shape.batch == 2 else real(shape, setting, free)
    )
    only(monkeypatch, "sparse MLA decode", "paged logits")
    report = gather.gather(small_setting(), quick=True)
    assert report.exit_code == 0
    assert "a cache of 192 rows in place of 256: requests share rows" in as_human(report)


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("wrong", 3), ("failed", 3), ("skipped", 3)])
def test_the_command_prints_json_and_exits_with_the_judgement(no_gpu_needed, monkeypatch, status, code):
    monkeypatch.setattr(gather, "gather", lambda setting, **_: report_with(status=status))
    result = CliRunner().invoke(app, ["bench", "GLM-5", "--format", "json"])
    assert result.exit_code == code
    content = json.loads(result.stdout)
    assert content["ok"] is (code == 0)
    assert content["setting"]["heads"] == 8
    assert (content["results"][0]["timing"] is None) is (status != "ok")
