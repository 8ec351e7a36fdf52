"""Every sparse-MLA case passes on the reference and fails on an op with the fault that it is there for."""

import pytest
import torch

from dsa_kernels.selftest.mla_cases import SELECTIONS, SHAPED

GROUP_OF = {"flat bf16": "mla-flat", "paged bf16": "mla-paged", "paged fp8": "mla-fp8"}
SHAPES = [(GROUP_OF[" ".join(case.name.split()[:2]).removesuffix("_ds_mla,").rstrip(",")], case) for case in SHAPED]


def drop_last(given):
    given["indices"] = given["indices"].clone()
    given["indices"][:, :, -1] = -1


@pytest.mark.parametrize(("group", "case"), SHAPES, ids=[case.name for _, case in SHAPES])
def test_a_dropped_entry_fails(run, attend_like, group, case):
    attend_like()
    assert run(group, case.name).status == "pass"
    attend_like(before=drop_last)
    record = run(group, case.name)
    assert record.status == "fail"
    assert record.error > record.limit
    assert record.expected != record.got


def nan_for_nothing(out, top, lse, given):
    return out.masked_fill(lse.isneginf()[..., None], float("nan")), top, lse


def clamp(given):
    rows = given["cache"].shape[0] * (given["cache"].shape[1] if given["kv_format"] else 1)
    given["indices"] = given["indices"].clamp(0, rows - 1)


def zero_times_masked(out, top, lse, given):
    """Masked entries are read from row 0, and their weight is 0."""
    if not (given["indices"] < 0).any():
        return out, top, lse
    first = given["rows"][0, 0, :512].double()
    return out + 0 * first, top, lse


def sink_in_lse(out, top, lse, given):
    return out, top, torch.logaddexp(lse, given["attn_sink"].double()[None, :])


def forget_length(given):
    given["topk_length"] = None


def overflow(out, top, lse, given):
    return out.masked_fill((top > 88)[..., None], float("nan")), top, lse


def lose_a_part(given):
    if given["q"].shape[0] == 1:
        given["indices"] = given["indices"][:, :, :-64]


FAULTS = {
    "rows with nothing valid": {"after": nan_for_nothing},
    "negative and past-the-end indices": {"before": clamp},
    "NaN in rows that are not selected": {"after": zero_times_masked},
    "attention sink": {"after": sink_in_lse},
    "topk_length from below 0 to past top-k": {"before": forget_length},
    "logits of several hundred, and all equal": {"after": overflow},
    "a token alone and among many": {"before": lose_a_part},
}


def test_every_selection_has_a_fault():
    assert set(FAULTS) == {case.name for case in SELECTIONS}


@pytest.mark.parametrize("name", FAULTS)
def test_its_fault_fails(run, attend_like, name):
    attend_like()
    assert run("mla-selections", name).status == "pass"
    attend_like(**FAULTS[name])
    assert run("mla-selections", name).status == "fail"


@pytest.mark.parametrize("name", ["flat bf16 cache", "paged bf16 cache", "fp8_ds_mla cache"])
def test_offsets_that_wrap_fail(run, attend_like, name):
    def wrap(given):
        cache = given["cache"]
        row_bytes = cache.shape[-1] * cache.element_size()
        given["indices"] = torch.where(given["indices"] < 2**31 // row_bytes, given["indices"], 0)

    attend_like()
    assert run("far", name).status == "pass"
    attend_like(before=wrap)
    assert run("far", name).status == "fail"
