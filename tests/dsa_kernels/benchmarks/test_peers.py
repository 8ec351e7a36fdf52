"""Peers from a folder: what is recognised, what is said of the rest, and that a wrong one has no speed."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from dsa_kernels.bench import GateError, Peer
from dsa_kernels.bench.indexer_cases import paged_inputs, ragged_inputs, topk_inputs
from dsa_kernels.bench.inputs import random_fp8_ds_mla, random_rows
from dsa_kernels.bench.mla_cases import mla_inputs
from tests.dsa_kernels.benchmarks.test_scripts import NATIVE, SCRIPTS

#: The form of a fork's files: kernels in one, what they share in another, with its entry points' own parameter names.
FORK = {
    "fork/ops/shared.py": "import torch\nSCALE = 1.0\n",
    "fork/ops/attention.py": """
from ops.shared import SCALE
from dsa_kernels.sparse_mla import naive_sparse_mla_fwd

def triton_mla_sparse_attention(q, kv, indices, sm_scale, num_kv_splits=None, sm_count=None):
    return naive_sparse_mla_fwd(q, kv, indices, sm_scale * SCALE)[0].to(q.dtype)
""",
    "fork/ops/logits.py": """
from dsa_kernels.indexer import naive_fp8_mqa_logits, naive_fp8_paged_mqa_logits

def fp8_mqa_logits_triton(q, kv, weights, cu_seqlen_ks, cu_seqlen_ke, clean_logits=True):
    assert not clean_logits
    return naive_fp8_mqa_logits(q, kv, weights, cu_seqlen_ks, cu_seqlen_ke).float()

def fp8_paged_mqa_logits_triton(q, kv_cache, weights, context_lens, block_tables, max_model_len):
    return naive_fp8_paged_mqa_logits(q, kv_cache, weights, context_lens, block_tables, max_model_len).float()
""",
    "apart.py": """
from dsa_kernels.indexer import naive_fp8_mqa_logits

def fp8_mqa_logits_triton(q, kv, kv_scales, weights, cu_starts, cu_ends):
    return naive_fp8_mqa_logits(q, (kv, kv_scales), weights, cu_starts, cu_ends).float()

def sparse_mla_fp8(q, cache, indices, sm_scale):
    return q[..., :512] * 0

def topk(logits, ends, k):
    return logits.topk(k, dim=1).indices
""",
}
USELESS = {
    "broken/one.py": "import no_such_module\ndef topk(logits, k): ...\n",
    "broken/two.py": "def topk(logits, k:\n",
    "broken/kernel.cu": "__global__ void kernel() {}\n",
    "asks.py": "def fp8_paged_mqa_logits_triton(q, secret): ...\n",
}


def folder(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_peers")


def test_entry_points_are_found_and_every_file_is_accounted_for(scripts, tmp_path):
    found = scripts.find_peers(folder(tmp_path, FORK | USELESS))
    assert {(one.peer, one.op) for one in found.functions} == {
        ("fork", "sparse_mla"),
        ("fork", "ragged_logits"),
        ("fork", "paged_logits"),
        ("apart", "ragged_logits"),
        ("apart", "sparse_mla_fp8"),
        ("apart", "topk"),
    }
    said = dict(line.split(": ", 1) for line in found.lines)
    assert set(said) == set(FORK | USELESS)
    assert said["fork/ops/attention.py"] == "triton_mla_sparse_attention as sparse_mla"
    assert said["fork/ops/shared.py"].startswith("no entry point")
    assert said["broken/one.py"] == "not loaded: ModuleNotFoundError: No module named 'no_such_module'"
    assert said["broken/two.py"].startswith("not loaded: SyntaxError")
    assert said["broken/kernel.cu"].startswith("not loaded: no Python")
    assert "'secret' is not known for paged_logits" in said["asks.py"]


def check(peer: Peer | str) -> None:
    assert isinstance(peer, Peer)
    peer.check()
    peer.calls[-1]()


def test_peers_pass_the_gates_of_their_ops_or_have_no_speed(scripts, tmp_path, device):
    functions = scripts.find_peers(folder(tmp_path, FORK)).functions
    check(scripts.mla_peers(functions, mla_inputs(random_rows(96, 576, device), 2, 4, 16, 1))["fork"])
    ragged = scripts.ragged_peers(functions, ragged_inputs(3, 40, 32, device))
    assert set(ragged) == {"fork", "apart"}
    for peer in ragged.values():
        check(peer)
    check(scripts.paged_peers(functions, paged_inputs(2, 2, 70, 32, 1, device=device))["fork"])
    check(scripts.topk_peers(functions, topk_inputs(2, 64, 8, 1, device))["apart"])
    with pytest.raises(GateError):
        scripts.mla_peers(functions, mla_inputs(random_fp8_ds_mla(128, device), 2, 4, 16, 1))["apart"].check()


def test_shapes_are_those_of_the_ops_that_have_a_peer(scripts, tmp_path, device, monkeypatch):
    """The makers run as on a GPU, on small shapes."""
    functions = scripts.find_peers(folder(tmp_path, FORK)).functions
    for name, value in (("TOPK", 16), ("CACHE_ROWS", 128), ("PREFILL_ROWS", 128), ("PREFILL_TOKENS", 3)):
        monkeypatch.setattr(scripts, name, value)
    monkeypatch.setattr(scripts, "RAGGED", ((3, 40),))
    monkeypatch.setattr(scripts, "PAGED", ((1, 1, 70),))
    monkeypatch.setattr(scripts, "SELECTIONS", ((2, 64),))
    for name in ("random_rows", "random_fp8_ds_mla", "ragged_inputs", "paged_inputs", "topk_inputs"):
        made = getattr(scripts, name)
        monkeypatch.setattr(scripts, name, lambda *given, made=made, **more: made(*given, device=device, **more))
    monkeypatch.setattr(scripts.torch.cuda, "empty_cache", lambda: None)
    cases = [make(replace(NATIVE, l2_bytes=1)) for make in scripts.makers(functions, quick=True)]
    assert all(case.peers for case in cases)
    assert [case.op for case in cases] == [
        *("sparse MLA decode", "sparse MLA decode", "sparse MLA prefill") * 2,
        "ragged logits",
        "paged logits",
        "top-k",
    ]
    only = [one for one in functions if one.op == "topk"]
    assert [make(NATIVE).op for make in scripts.makers(only, quick=True)] == ["top-k"]


def test_a_folder_without_a_peer_fails_the_run(scripts, tmp_path, capsys):
    assert scripts.main(["--folder", str(folder(tmp_path, USELESS))]) == 1
    printed = capsys.readouterr().out
    assert "no_such_module" in printed
    assert "no peer could be called, so nothing was measured" in printed
    with pytest.raises(SystemExit):
        scripts.main(["--folder", str(tmp_path / "nowhere")])
    assert "not a folder. Accepted:" in " ".join(capsys.readouterr().err.split())
