"""The benchmark scripts: their cases under the interpreter, their pictures and tables from made-up runs."""

import argparse
import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from dsa_kernels.bench import Case, GateError, Machine, Peer, PeerResult, Result, Timing, Work, work
from dsa_kernels.bench.inputs import random_rows
from dsa_kernels.bench.record import as_record, write_record

SCRIPTS = Path(__file__).parents[3] / "kernels" / "benchmarks"
NATIVE = Machine("Sample", "9.0", "", "1", "2", "3", copy_bytes_per_s=1e12, bf16_flop_per_s=1e14, l2_bytes=2**10)
SM80 = replace(NATIVE, override_arch="sm80")


@pytest.fixture
def script(monkeypatch):
    """Import a script by name, as `python kernels/benchmarks/NAME.py` does."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def options(**given):
    defaults = {"json": None, "milliseconds": 1.0, "compile_only": False, "quick": True}
    return argparse.Namespace(**(defaults | {"only": None, "tokens": None, "heads": None} | given))


def result(op, shape, done, median=100.0, **more):
    floors = done.floors(NATIVE)
    timing = Timing(median, median - 1, median + 2, 20)
    return Result(op, shape, "ok", 1e-5, 1e-7, "", timing, done.moved_bytes, done.flop, *floors, **more)


def run_file(folder, machine, median):
    peers = {"XPU": PeerResult(Timing(250.0, 249.0, 251.0, 9)), "FlashMLA": PeerResult(None, "not there")}
    attention = work.sparse_mla_work(1, 8, 64, 64, 1152, 576)
    shape = {"cache": "bf16", "tokens": 1, "heads": 8}
    results = [
        result("sparse MLA decode", shape, attention, median, peers={} if machine.override_arch else peers),
        result("top-k", {"rows": 1, "width": 4096, "k": 64}, work.topk_work(1, 4096, 64), median * 20),
        Result("top-k", {"rows": 2, "width": 4096, "k": 64}, "wrong", 0.0, message="3 of 64 elements differ"),
    ]
    path = folder / f"{machine.override_arch or 'native'}.json"
    write_record(path, as_record("sample", machine, results))
    return path


@pytest.fixture
def files(tmp_path):
    return run_file(tmp_path, NATIVE, 100.0), run_file(tmp_path, SM80, 130.0)


def test_decode_and_prefill_cases_are_right(script, device):
    module = script("bench_sparse_mla")
    peers = script("peers")
    cache = random_rows(96, 576, device)
    module.TOPK = 16
    for kind in ("decode", "prefill"):
        case = module.make_case(NATIVE, kind, 2, 4, cache, {"torch": peers.torch_gather, "XPU": "no wheel"})
        assert case.check() <= case.limit
        assert case.peers["torch"].check() <= peers.PEER_LIMIT
        assert case.peers["XPU"] == "no wheel"


def test_a_wrong_peer_is_found_out(script, device):
    module = script("bench_sparse_mla")
    module.TOPK = 16
    cache = random_rows(96, 576, device)
    case = module.make_case(NATIVE, "decode", 2, 4, cache, {"bad": lambda q, kv, indices, scale: q[..., :512]})
    with pytest.raises(GateError):
        case.peers["bad"].check()


def test_indexer_cases_are_right(script, device, monkeypatch):
    module = script("bench_indexer")
    monkeypatch.setattr(module, "TOPK", 8)
    monkeypatch.setattr(module, "ragged_inputs", partial(module.ragged_inputs, device=device))
    monkeypatch.setattr(module, "paged_inputs", partial(module.paged_inputs, device=device))
    ragged = module.make_ragged(3, 40, 4, "no DeepGEMM")
    assert ragged.peers["DeepGEMM"] == "no DeepGEMM"
    assert ragged.peers["torch"].check() <= 1e-2
    chunked = module.make_chunked(3, 40, 4)
    assert chunked.peers["unchunked"].check() == 0.0
    for case in (ragged, chunked, module.make_paged(NATIVE, 1, 2, 70, 200, 4, None)):
        assert case.check() <= case.limit


@pytest.mark.parametrize(("part", "name"), [("ragged_module", "ragged_config"), ("paged_module", "paged_config")])
def test_a_configuration_is_replaced_by_its_fields(script, monkeypatch, part, name):
    module = script("bench_indexer")
    kernels = getattr(module, part)
    default = getattr(kernels, name)(80, 64, 1)
    monkeypatch.setattr(kernels, name, getattr(kernels, name))  # put back afterwards
    values = [value + 1 if isinstance(value, int) else value for value in vars(default).values() if value is not None]
    module.use_config(kernels, name, ",".join(map(str, values)))
    assert getattr(kernels, name)(90, 32, 1) == type(default)(*values)


@pytest.mark.parametrize(("capability", "next_n", "parts"), [((9, 0), 4, 66), ((9, 0), 1, 132), ((10, 0), 4, 132)])
def test_deep_gemm_gets_a_schedule_for_its_clusters(script, monkeypatch, capability, next_n, parts):
    """DeepGEMM 2.5: `_schedule_meta_size == num_sms / num_kv_multicast + 1`, the multicast 2 on 9.0 with next_n 4."""
    peers = script("indexer_peers")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    inputs = script("bench_indexer").paged_inputs(1, next_n, 70, 4, 1, device="cpu")
    asked = []

    class DeepGemm:
        get_num_sms = staticmethod(lambda: 132)

        @staticmethod
        def get_paged_mqa_logits_metadata(lengths, page, parts):
            asked.append((page, parts))
            return torch.zeros(parts + 1, 2, dtype=torch.int32)

        @staticmethod
        def fp8_paged_mqa_logits(q, cache, weights, lengths, table, schedule, context, clean_logits):
            return schedule

    peer = peers.deep_gemm_paged(DeepGemm, inputs)
    assert peer.calls[0]().shape == (parts + 1, 2)
    peer.calls[0]()
    assert asked == [(64, parts)]


def test_the_wheels_selections_are_gated_by_value(script, device):
    """With the signatures of vLLM 0.26's `_C`; one of the three selects wrongly."""
    module, cases = script("topk_peers"), script("bench_topk")
    inputs = cases.topk_inputs(2, 50, 8, 1, device)

    class Wheel:
        @staticmethod
        def top_k_per_row_decode(logits, next_n, seq_lens, out, rows, stride0, stride1, topk):
            assert (next_n, rows, stride0, stride1, topk) == (1, 2, 50, 1, 8)
            out.copy_(logits.topk(topk, dim=1).indices)

        @staticmethod
        def top_k_per_row_prefill(logits, starts, ends, out, rows, stride0, stride1, topk):
            assert starts.tolist() == [0, 0]
            assert ends.tolist() == [50, 50]
            out.copy_(logits.topk(topk, dim=1).indices.flip(1))

        @staticmethod
        def persistent_topk(logits, lengths, out, workspace, topk, width):
            out.copy_(logits.topk(topk, dim=1, largest=False).indices)

    peers = module.wheel_topk(Wheel, inputs)
    assert peers["top_k_per_row_decode"].check() == 0.0
    assert peers["top_k_per_row_prefill"].check() == 0.0
    with pytest.raises(GateError):
        peers["persistent_topk"].check()
    assert set(module.wheel_topk("no wheel", inputs).values()) == {"no wheel"}


def test_a_folder_without_the_library_is_a_reason(script, tmp_path):
    assert "_C_stable_libtorch.abi3.so" in script("topk_peers").load_wheel_ops(tmp_path)


def sample_case(check):
    return Case("op", {"rows": 2}, Work(2e6, 3e8), 1e-5, check, [lambda: None], {"other": Peer([lambda: None], check)})


def wrong():
    raise GateError("relative error 1", 1.0)


@pytest.mark.parametrize(("checks", "code"), [([lambda: 0.0], 0), ([lambda: 0.0, wrong], 1), ([wrong, lambda: 0.0], 1)])
@pytest.mark.parametrize("compile_only", [False, True])
def test_a_run_with_a_wrong_shape_fails_and_goes_on(script, monkeypatch, tmp_path, capsys, checks, code, compile_only):
    runner = script("runner")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(runner, "measure_machine", lambda milliseconds: NATIVE)
    monkeypatch.setattr(runner, "describe_machine", lambda: NATIVE)
    monkeypatch.setattr("dsa_kernels.bench.case.time_calls", lambda calls, milliseconds: Timing(10.0, 9.0, 12.0, 8))
    makers = [lambda machine, check=check: sample_case(check) for check in checks]
    path = tmp_path / "run.json"
    assert runner.run("sample", makers, options(json=path, compile_only=compile_only)) == code
    if compile_only:
        assert not path.exists()
        return
    statuses = [row["status"] for row in json.loads(path.read_text())["results"]]
    assert statuses == ["wrong" if check is wrong else "ok" for check in checks]
    assert capsys.readouterr().out.count("10.0 [9.0, 12.0]") == statuses.count("ok")


@pytest.mark.parametrize("name", ["bench_sparse_mla", "bench_indexer", "bench_topk"])
def test_without_a_gpu_a_script_says_so(name):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = python(SCRIPTS / f"{name}.py", "--quick", "--no-peers")
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
    assert "Traceback" not in done.stderr


def python(path, *words):
    return subprocess.run([sys.executable, str(path), *map(str, words)], capture_output=True, text=True, timeout=120)


def test_pictures_tell_the_pipelines_apart_by_shape_and_words(files, tmp_path):
    done = python(SCRIPTS / "roofline.py", "--out", tmp_path / "out", *files)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["roofline-sparse-mla-decode.svg", "roofline-top-k.svg"]
    svg = (tmp_path / "out" / names[0]).read_text()
    words = " ".join(ET.fromstring(svg).itertext())
    for wanted in ("FLOP per byte", "TFLOP/s", "copy 1.00 TB/s", "bf16 product 100 TFLOP/s"):
        assert wanted in words
    assert "heads 8, native" in words
    assert "heads 8, sm80 pipeline" in words
    assert "sm80 pipeline on Sample, not an A100" in words
    bytes_picture = " ".join(ET.fromstring((tmp_path / "out" / names[1]).read_text()).itertext())
    assert "GB/s" in bytes_picture
    again = python(SCRIPTS / "roofline.py", "--out", tmp_path / "again", *files)
    assert again.returncode == 0
    assert (tmp_path / "again" / names[0]).read_text() == svg


def test_points_lie_where_the_figures_say(files, tmp_path, script, monkeypatch):
    pytest.importorskip("matplotlib")
    roofline = script("roofline")
    plotted = []
    pyplot = roofline.matplotlib_pyplot()
    real = pyplot.subplots

    def subplots(**given):
        figure, axes = real(**given)
        plain = axes.plot
        monkeypatch.setattr(axes, "plot", lambda *data, **how: plotted.append((data, how)) or plain(*data, **how))
        return figure, axes

    monkeypatch.setattr(pyplot, "subplots", subplots)
    records = [json.loads(path.read_text()) for path in files]
    picture = roofline.PICTURES[0]
    roofline.draw(picture, roofline.rows_of(picture, records), tmp_path / "one.svg")
    done = work.sparse_mla_work(1, 8, 64, 64, 1152, 576)
    roof, native, emulated = plotted
    assert roof[0][1][-1] == 100.0
    assert native[0] == ((done.intensity,), (pytest.approx(done.flop / 100 / 1e6),))
    assert emulated[0] == ((done.intensity,), (pytest.approx(done.flop / 130 / 1e6),))
    assert (native[1]["marker"], emulated[1]["marker"]) == ("o", "s")
    assert (native[1]["color"], emulated[1]["markerfacecolor"]) == ("#0072b2", "none")


@pytest.mark.parametrize("keys", [1, 5])
def test_nothing_is_cut_and_the_legend_covers_nothing(files, tmp_path, script, monkeypatch, keys):
    pytest.importorskip("matplotlib")
    roofline = script("roofline")
    drawn = []
    pyplot = roofline.matplotlib_pyplot()
    real = pyplot.subplots
    monkeypatch.setattr(pyplot, "subplots", lambda **given: drawn.append(real(**given)) or drawn[-1])
    records = [json.loads(path.read_text()) for path in files]
    found = [
        ({**machine, "pipeline": f"{machine['pipeline']} with 164 KiB of shared memory, not an A100, " * 2},
         {**row, "shape": {**row["shape"], "heads": 8 << key}})
        for machine, row in roofline.rows_of(roofline.PICTURES[0], records)
        for key in range(keys)
    ]  # fmt: skip
    roofline.draw(roofline.PICTURES[0], found, tmp_path / "one.svg")
    ((figure, axes),) = drawn
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    page = figure.bbox
    (legend,) = figure.legends
    for part in (figure._suptitle, legend):
        box = part.get_window_extent()
        assert page.x0 <= box.x0, part
        assert box.x1 <= page.x1, part
        assert page.y0 <= box.y0, part
        assert box.y1 <= page.y1, part
        assert not box.overlaps(inside), part


def test_without_matplotlib_the_extra_is_named(files, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no')\n")
    paths = [str(tmp_path), str(SCRIPTS)]
    code = f"import sys; sys.path[:0] = {paths}; import roofline; roofline.matplotlib_pyplot()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'dsa-doctor[plots]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["roofline.py", "tables.py"])
def test_a_file_that_is_no_run_is_refused(tmp_path, name):
    path = tmp_path / "other.json"
    path.write_text("{}")
    words = ["--out", tmp_path] if name == "roofline.py" else []
    done = python(SCRIPTS / name, *words, path)
    assert done.returncode == 1
    assert "other.json: no record of a benchmark run" in done.stderr


def test_tables_hold_every_figure_once(files):
    done = python(SCRIPTS / "tables.py", *files)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("- sample: Sample, driver 1, torch 2, Triton 3, native; copy 1.00 TB/s")
    assert "sm80 pipeline on Sample, not an A100" in lines[1]
    assert "### Sparse MLA decode, bf16 cache" in lines
    assert "| tokens | heads | native, µs | of floor | sm80 pipeline, µs | of floor | XPU, µs | FlashMLA, µs |" in lines
    assert "| 1 | 8 | 100.0 [99.0, 102.0] | 0% | 130.0 [129.0, 132.0] | 0% | 250.0 |  |" in lines
    assert "| 1 | 4,096 | 64 | 2,000 [1,999, 2,002] | 0% | 2,600 [2,599, 2,602] | 0% |" in lines
    assert "| 2 | 4,096 | 64 | wrong: 3 of 64 elements differ |  | wrong: 3 of 64 elements differ |  |" in lines
