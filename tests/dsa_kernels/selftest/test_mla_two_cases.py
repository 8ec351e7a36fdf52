"""Every case of two caches passes on the reference and fails on an op with the fault that it is there for."""

import pytest
import torch

from dsa_kernels import sparse_mla
from dsa_kernels.selftest.mla_two_cases import CASES


def serve(install, fault=None):
    """Let the reference, with a fault, be the op: it changes the arguments, or returns (out, lse) itself."""

    def attend(out, **given):
        found = fault(given) if fault else None
        result, lse = found or sparse_mla.naive_sparse_mla_with_kvcache(**given)
        return result.to(given["q"].dtype), lse.float()

    install(sparse_mla, sparse_mla_with_kvcache=attend)


def alone(given, prefix, **more):
    names = ("kv_cache", "indices", "topk_length")
    shared = {name: given[name] for name in ("q", "sm_scale", "attn_sink")}
    return sparse_mla.naive_sparse_mla_with_kvcache(**shared | {name: given[prefix + name] for name in names} | more)


def drop_first_of_extra(given):
    given["extra_indices"] = given["extra_indices"].clone()
    given["extra_indices"][:, :, 0] = -1


def forget_length(given):
    rows = given["extra_kv_cache"].shape[0] * given["extra_kv_cache"].shape[1]
    given["extra_indices"] = given["extra_indices"].clamp(0, rows - 1)
    given["extra_topk_length"] = None


def bounds_of_the_first(given):
    rows = given["kv_cache"].shape[0] * given["kv_cache"].shape[1]
    extra = given["extra_kv_cache"].reshape(-1, 512)
    grown = torch.cat((extra, torch.ones(rows, 512, dtype=extra.dtype, device=extra.device)))[:rows]
    given["extra_kv_cache"] = grown[:, None, None]


def nan_where_the_first_is_empty(given):
    out, lse = sparse_mla.naive_sparse_mla_with_kvcache(**given)
    empty = (given["indices"][:, 0] < 0).all(-1)
    return out.masked_fill(empty[:, None, None], float("nan")), lse


def sink_for_each(given):
    if given["attn_sink"] is None:
        return None
    first, first_lse = alone(given, "")
    second, second_lse = alone(given, "extra_")
    both = torch.logaddexp(first_lse, second_lse)
    return (first_lse - both).exp()[..., None] * first + (second_lse - both).exp()[..., None] * second, both


FAULTS = {
    "two caches, lengths and stale tails": forget_length,
    "two caches, entries past the end of one": bounds_of_the_first,
    "two caches, nothing valid in one or both": nan_where_the_first_is_empty,
    "two caches, one sink": sink_for_each,
    **{case.name: drop_first_of_extra for case in CASES if case.name.endswith(" heads")},
}


def test_every_case_has_a_fault():
    assert set(FAULTS) == {case.name for case in CASES}


@pytest.mark.parametrize("name", FAULTS)
def test_its_fault_fails(run, install, name):
    serve(install)
    assert run("mla-two", name).status == "pass"
    serve(install, FAULTS[name])
    record = run("mla-two", name)
    assert record.status == "fail"
    assert record.expected != record.got


def test_page_offsets_that_wrap_fail(run, install):
    def wrap(given):
        for name in ("indices", "extra_indices"):
            given[name] = given[name] % 2

    serve(install)
    assert run("far", "two caches").status == "pass"
    serve(install, wrap)
    assert run("far", "two caches").status == "fail"
