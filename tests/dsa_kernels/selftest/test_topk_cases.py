"""Every case of top-k passes on the reference and fails on a selection with the fault that it is there for."""

import pytest
import torch

from dsa_kernels import indexer
from dsa_kernels.selftest import topk_cases

INF = float("inf")
pytestmark = pytest.mark.usefixtures("references")


def select(change):
    """A selection that is right but for what `change` does to (logits, starts, ends, k) before."""

    def serve(logits, starts, ends, k, out):
        given = {"logits": logits.clone(), "starts": starts, "ends": ends.reshape(-1).clone(), "k": k}
        change(given)
        found = indexer.naive_topk_indices(given["logits"], given["starts"], given["ends"], given["k"])
        return out.copy_(torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1))

    return serve


def coarse(given):
    """Compares 11 bits, as a first histogram pass does."""
    bits = given["logits"].view(torch.int32)
    given["logits"] = (bits >> 21 << 21).view(torch.float32)


def short_buffer(given):
    given["k"] = min(given["k"], 64)


def first_4096(given):
    given["ends"] = given["ends"].clamp_max(4096)


def bits_of_zero(given):
    zero = given["logits"] == 0
    given["logits"] = torch.where(zero & torch.signbit(given["logits"]), -1e-30, given["logits"])


def later_of_equals(given):
    """Of equal values the later position: an offset that grows with the position, too small to reorder others."""
    width = given["logits"].shape[1]
    given["logits"] = given["logits"] + torch.arange(width) * 1e-6


def long_as_short(given):
    between = (given["ends"] > given["k"]) & (given["ends"] < 2 * given["k"])
    given["ends"] = torch.where(between, given["k"], given["ends"])


def no_starts(given):
    given["starts"] = torch.zeros_like(given["ends"])


def nan_is_largest(given):
    given["logits"] = given["logits"].nan_to_num(nan=INF, posinf=INF, neginf=-INF)


def ends_of_the_first(given):
    given["ends"] = given["ends"][::4].repeat_interleave(4)


def previous_row(given):
    given["logits"] = given["logits"].roll(1, 0)


FAULTS = {
    "context from 1 to 2k + 1": long_as_short,
    "values: random": short_buffer,
    "values: narrow range": coarse,
    "values: all equal": later_of_equals,
    "values: one bit apart": coarse,
    "values: two values": coarse,
    "values: crowded bin": coarse,
    "values: 150 above a floor": short_buffer,
    "values: every exponent": coarse,
    "values: zeros of both signs": bits_of_zero,
    "values: ascending": first_4096,
    "starts above 0, bounds outside the row": no_starts,
    "-inf, inf and NaN of both signs": nan_is_largest,
    "rows of a million": first_4096,
    "next_n 4, unaligned slices": ends_of_the_first,
}


def test_every_case_has_a_fault():
    assert set(FAULTS) == {case.name for case in topk_cases.CASES}


@pytest.mark.parametrize("name", FAULTS)
def test_its_fault_fails(run, install, name):
    assert run("topk", name).status == "pass"
    install(indexer, topk_indices=select(FAULTS[name]))
    record = run("topk", name)
    assert record.status == "fail", record
    assert record.error >= 1


def test_rows_that_wrap_fail(run, install):
    assert run("far", "logits past").status == "pass"
    install(indexer, topk_indices=select(previous_row))
    assert run("far", "logits past").status == "fail"


def test_an_output_that_is_not_written_fails(run, install):
    install(indexer, topk_indices=lambda logits, starts, ends, k, out: out)
    record = run("topk", "values: random")
    assert record.status == "fail"
    assert record.got.startswith("-77")
