"""DSA_DOCTOR_BATCH_INVARIANT: what is accepted, what it refuses, and that it reaches every op that takes it."""

import sys
from types import SimpleNamespace

import pytest
import torch

import dsa_kernels.indexer
import dsa_kernels.mhc
import dsa_kernels.sparse_mla
from dsa_doctor.plugin import entry, indices, invariance, ops, serving
from dsa_doctor.plugin.state import PluginState
from tests.dsa_doctor.plugin.test_serving import server, v4_server


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    """What was read is forgotten, before and after."""
    monkeypatch.delenv("DSA_DOCTOR_BATCH_INVARIANT", raising=False)
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    readers = (invariance.batch_invariant, ops.uses_references)
    for reader in readers:
        reader.cache_clear()
    yield
    for reader in readers:
        reader.cache_clear()


@pytest.mark.parametrize(
    ("own", "vllm", "wanted"),
    [
        (None, None, False),
        ("", "0", False),
        ("1", None, True),
        (" 1 ", "0", True),
        (None, "1", True),
        ("", "2", True),
        ("0", "1", False),
        (None, "yes", False),  # vLLM stops over it by itself
    ],
)
def test_its_own_variable_decides_and_then_vllms(monkeypatch, own, vllm, wanted):
    for name, value in (("DSA_DOCTOR_BATCH_INVARIANT", own), ("VLLM_BATCH_INVARIANT", vllm)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert invariance.batch_invariant() is wanted


@pytest.mark.parametrize("value", ["on", "true", "2", "-1"])
def test_an_unknown_value_stops_the_start_and_names_what_is_accepted(monkeypatch, value):
    monkeypatch.setattr(entry, "STATE", PluginState())
    monkeypatch.setenv("DSA_DOCTOR_BATCH_INVARIANT", value)
    with pytest.raises(ValueError, match=rf"DSA_DOCTOR_BATCH_INVARIANT='{value}' is not known\. Accepted: 0, 1;"):
        entry.register()


def test_with_the_plugin_off_its_variable_is_nobodys_business(monkeypatch):
    monkeypatch.setattr(entry, "STATE", PluginState())
    monkeypatch.setenv("DSA_DOCTOR_BATCH_INVARIANT", "on")
    monkeypatch.setenv("DSA_DOCTOR_PLUGIN", "off")
    entry.register()


@pytest.mark.parametrize("asked", [False, True])
def test_the_ops_are_asked_for_it(monkeypatch, asked):
    if asked:
        monkeypatch.setenv("DSA_DOCTOR_BATCH_INVARIANT", "1")
    seen = []

    def recorded(position):
        def op(*given, **more):
            seen.append(more.get("batch_invariant", given[position] if len(given) > position else None))
            return torch.empty(0), torch.empty(0)

        return op

    monkeypatch.setattr(ops, "uses_references", lambda kind: False)
    monkeypatch.setattr(dsa_kernels.sparse_mla, "sparse_mla_with_kvcache", recorded(99))
    monkeypatch.setattr(dsa_kernels.indexer, "fp8_paged_mqa_logits", recorded(99))
    monkeypatch.setattr(dsa_kernels.mhc, "hc_prenorm_gemm", recorded(5))
    nothing = torch.empty(0)
    ops.sparse_mla_with_kvcache(nothing, nothing, nothing, 1.0, "bf16", None)
    ops.window_and_selected_mla(nothing, (nothing,) * 3, None, 1.0, nothing, nothing)
    ops.fp8_paged_mqa_logits(nothing, nothing, nothing, nothing, nothing, 1)
    ops.hc_prenorm_gemm(nothing, nothing, nothing, nothing, 1)
    assert seen == [asked] * 4


def test_rows_keep_the_order_of_their_positions(monkeypatch):
    """vLLM's kernel that moves valid rows to the front may do so in the order in which its programs end."""
    asked = []

    def convert(request_ids, block_table, positions, **more):
        asked.append(more)
        return torch.where(positions >= 0, positions + 100, -1)

    monkeypatch.setenv("DSA_DOCTOR_BATCH_INVARIANT", "1")
    monkeypatch.setattr(ops, "uses_references", lambda kind: False)
    module = SimpleNamespace(triton_convert_req_index_to_global_index=convert)
    monkeypatch.setitem(sys.modules, "vllm.v1.attention.backends.mla.sparse_utils", module)
    positions = torch.tensor([[3, -1, 9, -1], [-1, -1, -1, -1], [1, 2, 3, 4]], dtype=torch.int32)
    rows, counts = indices.to_cache_rows(torch.zeros(3), torch.zeros((3, 1)), positions, 64)
    assert rows.tolist() == [[103, -1, 109, -1], [-1] * 4, [101, 102, 103, 104]]
    assert counts.tolist() == [3, 0, 4]
    assert counts.dtype == torch.int32
    assert "return_valid_counts" not in asked[0]


@pytest.mark.parametrize("asked", [False, True])
def test_short_prompts_are_prefilled_as_long_ones(monkeypatch, asked):
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cuda", lambda self: False)
    if asked:
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    config = server(attention=SimpleNamespace(backend=None, sparse_mla_force_mqa=False))
    serving.review(config)
    assert config.attention_config.sparse_mla_force_mqa is asked


def test_what_cannot_keep_it_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("DSA_DOCTOR_BATCH_INVARIANT", "1")
    older = "; ".join(serving.refusals(server()))
    assert "batch invariance was asked for" in older
    assert "no sparse_mla_force_mqa" in older
    assert "DSA_DOCTOR_BATCH_INVARIANT=0" in older
    assert serving.refusals(v4_server()) == []
    monkeypatch.setenv("DSA_DOCTOR_KERNELS", "reference")
    ops.uses_references.cache_clear()
    assert "accepted: DSA_DOCTOR_KERNELS=triton" in "; ".join(serving.refusals(v4_server()))


def test_the_log_says_what_is_kept_and_what_is_not(monkeypatch):
    monkeypatch.setenv("DSA_DOCTOR_BATCH_INVARIANT", "1")
    assert invariance.described().endswith("the rest of the model is vLLM's, whose switch is VLLM_BATCH_INVARIANT=1")
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert invariance.described() == "batch invariance: on for sparse attention and indexer"
