"""The parts of DeepSeek-V4.1's path, each on its own: index keys, the engram's lookup, its refusals, wo_a in MXFP8."""

from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from dsa_doctor.plugin.families.deepseek_v4_weights import values_of
from dsa_doctor.plugin.families.deepseek_v41_engram import engram_refusals
from dsa_doctor.plugin.families.deepseek_v41_ops import indexer_k_norm_rope_store, lookup
from dsa_kernels.compressor import naive_index_key_norm_rope_store
from dsa_kernels.engram import naive_engram_lookup
from tests.dsa_doctor.plugin.tiny_models import tiny_v41_config

GIB = 2**30


def test_index_keys_are_stored_as_vllm_hands_them() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, weight = torch.randn(6, 128, generator=generator).bfloat16(), torch.rand(128, generator=generator).bfloat16()
    angles, slots = torch.randn(64, 64, generator=generator), torch.tensor([-1, 3, -1, 4])
    positions = torch.arange(6)
    stored, wanted = (torch.zeros(2, 4, 132, dtype=torch.uint8) for _ in range(2))
    given = (keys, positions, angles, weight, 1e-20)
    indexer_k_norm_rope_store(*given, stored, slots, 2, False)
    naive_index_key_norm_rope_store(keys, positions, weight, 1e-20, angles, wanted, slots, 2)
    assert stored.any()
    assert torch.equal(stored, wanted)
    with pytest.raises(NotImplementedError, match="default fp8 indexer cache"):
        indexer_k_norm_rope_store(*given, stored, slots, 2, True)


def embedding(**more: Any) -> Any:
    """Rank 1 of 2 of vLLM's module: columns 2 and 3 of four, whose rows start at 7."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(12, 128, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.randint(120, 130, (12, 4), generator=generator, dtype=torch.uint8)
    return SimpleNamespace(_storage=lambda: (table, scales), vocab_start_idx=7, head_start=2, **more)


def test_the_engram_reads_the_rows_of_its_rank() -> None:
    ids = torch.tensor([[0, 5, 7, 18], [1, 2, -1, 9]], dtype=torch.int32)
    out, wanted = (torch.full((2, 2, 128), 9.0).bfloat16() for _ in range(2))
    lookup(embedding(), ids, out, background=True)
    naive_engram_lookup(*embedding()._storage(), ids, wanted, 7, 2)
    assert torch.equal(out, wanted)
    assert not out[1, 0].any()  # a dead id
    assert out[0, 1].any()


@pytest.mark.parametrize(("more", "dtype"), [({"peer_rows": 4}, torch.bfloat16), ({}, torch.uint8)])
def test_rows_of_other_gpus_and_packed_ones_are_refused(more: dict[str, int], dtype: torch.dtype) -> None:
    with pytest.raises(NotImplementedError, match="cpu_offload, the default"):
        lookup(embedding(**more), torch.zeros(1, 4, dtype=torch.int32), torch.empty(1, 2, 128, dtype=dtype))


def test_mxfp8_becomes_the_values_that_it_stands_for() -> None:
    generator = torch.Generator().manual_seed(2)
    codes = torch.randn(6, 96, generator=generator).to(torch.float8_e4m3fn)
    exponents = torch.randint(120, 131, (6, 3), generator=generator, dtype=torch.uint8)
    found = values_of(codes, exponents, [1, 32])
    assert torch.equal(found, values_of(codes, exponents.view(torch.float8_e8m0fnu), [1, 32]))
    for row, column in [(0, 0), (0, 31), (0, 32), (5, 95)]:
        scale = 2.0 ** (int(exponents[row, column // 32]) - 127)
        assert found[row, column] == (codes[row, column].float() * scale).bfloat16()


def server(asking: dict[str, Any] | None = None, *, tensor: int = 8, data: int = 1, **changes: Any) -> Any:
    config = tiny_v41_config(**changes)
    model = SimpleNamespace(
        hf_config=SimpleNamespace(**config["text_config"], to_dict=lambda: config),
        served_model_name=None,
        model="tiny",
    )
    asked = SimpleNamespace(cpu_offload=True, embedding_across_dp=False, dp_shared_memory=None)
    vars(asked).update(asking or {})
    parallel = SimpleNamespace(
        tensor_parallel_size=tensor,
        pipeline_parallel_size=1,
        data_parallel_size=data,
        data_parallel_size_local=data,
        nnodes=1,
    )
    return SimpleNamespace(model_config=model, engram_config=asked, parallel_config=parallel)


VAST = {"engram_num_embeddings": [3 << 30]}
"""Rows of 128 values: 48 GiB of them and 1.5 GiB of scales a rank of eight, pinned as 64 and 2."""


@pytest.mark.parametrize(("memory", "refused"), [(527 * GIB, True), (528 * GIB, False)])
def test_tables_are_counted_as_they_are_pinned(monkeypatch: pytest.MonkeyPatch, memory: int, refused: bool) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=memory))
    found = engram_refusals(server(**VAST))
    assert bool(found) == refused
    if refused:
        assert found == [
            "the engram's tables take 528 GiB of pinned memory on this host, which has 527 GiB; accepted: a host with "
            "more memory, or --engram-config '{\"cpu_offload\": false}' where the GPUs can hold them"
        ]


def test_huge_pages_take_what_the_tables_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=400 * GIB))
    (reason,) = engram_refusals(server({"use_thp": False}, **VAST))
    assert "--engram-config '{\"use_thp\": true}'" in reason
    assert not engram_refusals(server({"use_thp": True}, **VAST)), "396 GiB"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=395 * GIB))
    (reason,) = engram_refusals(server({"use_thp": True}, **VAST))
    assert "396 GiB" in reason
    assert "use_thp" not in reason


def test_copies_share_their_tables_or_hold_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=600 * GIB))
    assert not engram_refusals(server({"dp_shared_memory": True}, data=2, **VAST))
    (alone,) = engram_refusals(server(data=2, **VAST))
    assert "1056 GiB" in alone


def test_a_host_that_tells_no_memory_and_a_model_without_tables_are_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> Any:
        raise OSError

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    assert not engram_refusals(server(**VAST))
    assert not engram_refusals(server({"cpu_offload": False}, data=2, engram=False))


@pytest.mark.parametrize(
    ("engram", "words"),
    [
        ({"embedding_across_dp": True}, "embedding_across_dp"),
        ({"cpu_offload": False}, "cpu_offload false with --data-parallel-size above 1"),
    ],
)
def test_tables_of_other_replicas_are_refused(engram: dict[str, Any], words: str) -> None:
    (reason,) = engram_refusals(server(engram, data=2))
    assert words in reason
    assert not engram_refusals(server(engram))
