"""Every case of the engram's lookup passes on the reference and fails on an op with the fault that it is there for."""

import pytest

from dsa_kernels import engram

pytestmark = pytest.mark.usefixtures("references")


def leaves_what_is_not_owned(table, scales, ids, out, first_id, first_head, background=False):
    before = out.clone()
    engram.naive_engram_lookup(table, scales, ids, out, first_id, first_head)
    missing = (ids < first_id) | (ids >= first_id + table.shape[0])
    for head in range(min(out.shape[1], ids.shape[1] - first_head)):
        out[missing[:, first_head + head], head] = before[missing[:, first_head + head], head]


def off_by_a_row(table, scales, ids, out, first_id, first_head, background=False):
    engram.naive_engram_lookup(table, scales, ids, out, first_id + 1, first_head)


def padded_heads_left(table, scales, ids, out, first_id, first_head, background=False):
    before = out.clone()
    engram.naive_engram_lookup(table, scales, ids, out, first_id, first_head)
    there = ids.shape[1] - first_head
    out[:, there:] = before[:, there:]


def scales_of_the_next_group(table, scales, ids, out, first_id, first_head, background=False):
    engram.naive_engram_lookup(table, scales.roll(1, 1), ids, out, first_id, first_head)


@pytest.mark.parametrize(
    ("case", "lookup"),
    [
        ("rows of a table on the device", leaves_what_is_not_owned),
        ("rows of a table on the device", off_by_a_row),
        ("rows of a table on the device", padded_heads_left),
        ("rows of a table on the host", scales_of_the_next_group),
    ],
)
def test_a_fault_fails_its_case(run, install, case, lookup):
    assert run("engram", case).status == "pass"
    install(engram, engram_lookup=lookup)
    assert run("engram", case).status == "fail"
