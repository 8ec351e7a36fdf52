"""Every case of the indexer's logits passes on the reference and fails on an op with the fault that it is there for."""

import pytest
import torch

from dsa_kernels import indexer
from dsa_kernels.selftest import logits_cases, paged_cases

INF = float("inf")
pytestmark = pytest.mark.usefixtures("references")


def test_starts_that_are_ignored_fail(run, install):
    assert run("logits", "two requests").status == "pass"
    right = indexer.fp8_mqa_logits
    install(
        indexer,
        fp8_mqa_logits=lambda q, kv, w, starts, ends, max_seqlen_k=0: right(
            q, kv, w, torch.zeros_like(starts), ends, max_seqlen_k=max_seqlen_k
        ),
    )
    assert run("logits", "two requests").status == "fail"


def faulty_logits(change):
    right = indexer.fp8_mqa_logits
    return lambda *arguments, **options: change(right(*arguments, **options))


def drop_tail(logits):
    logits[:, logits.shape[1] // 128 * 128 :] = -INF
    return logits


FLAT = {
    "tails": drop_tail,
    "rows with nothing valid": lambda logits: logits.masked_fill(logits == -INF, 0.0),
    "every e4m3 code": lambda logits: logits.abs(),
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_faults_fail(run, install, name):
    assert run("logits", name).status == "pass"
    install(indexer, fp8_mqa_logits=faulty_logits(FLAT[name]))
    assert run("logits", name).status == "fail"


@pytest.mark.parametrize("code", [1, 7, 8, 0x7E, 0x81, 0xFE])
def test_one_code_decoded_wrongly_fails(run, install, code):
    right = indexer.fp8_mqa_logits

    def decode_wrongly(q, kv, *rest, **options):
        raw = kv[0].view(torch.uint8)
        keys = torch.where(raw == code, raw ^ 1, raw).view(torch.float8_e4m3fn)
        return right(q, (keys, kv[1]), *rest, **options)

    install(indexer, fp8_mqa_logits=decode_wrongly)
    assert run("logits", "every e4m3 code").status == "fail"


def test_a_chunk_that_differs_fails(run, install):
    assert run("logits", "chunked").status == "pass"
    right = indexer.indexer_topk

    def drift(q, kv, weights, starts, ends, k, budget_bytes):
        return right(q, kv, weights, starts, ends - int(budget_bytes < 2**20), k)

    install(indexer, indexer_topk=drift)
    assert run("logits", "chunked").status == "fail"


def test_keys_that_are_off_by_one_fail(run, install):
    assert run("far", "keys and logits").status == "pass"
    install(indexer, fp8_mqa_logits=faulty_logits(lambda logits: logits.roll(1, 1)))
    assert run("far", "keys and logits").status == "fail"


def test_far_logits_that_are_not_cleaned_fail(run, install):
    def dirty(logits):
        logits[-1, 0] = 0.0
        return logits

    install(indexer, fp8_mqa_logits=faulty_logits(dirty))
    record = run("far", "keys and logits")
    assert record.status == "fail"
    assert "-inf" in record.expected


def paged_like(change):
    right = indexer.fp8_paged_mqa_logits

    def serve(q, cache, weights, lengths, tables, schedule, width):
        given = {"lengths": lengths, "tables": tables}
        change(given, q, cache)
        return right(q, cache, weights, given["lengths"], given["tables"], schedule, width)

    return serve


def other_pages(given, q, cache):
    given["tables"] = given["tables"].roll(1, 0)


def all_see_all(given, q, cache):
    if given["lengths"].dim() == 1:
        given["lengths"] = given["lengths"][:, None].expand(-1, q.shape[1])


def at_least_one(given, q, cache):
    lengths = given["lengths"] if given["lengths"].dim() == 2 else indexer.row_lengths(given["lengths"], *q.shape[:2])
    given["lengths"] = lengths.reshape(q.shape[:2]).clamp_min(1)


def clamp_pages(given, q, cache):
    given["tables"] = given["tables"].clamp(0, cache.shape[0] - 1)


PAGED = {
    "paged, next_n 1": other_pages,
    "paged, next_n 4": all_see_all,
    "paged, rows with nothing valid": at_least_one,
    "paged, entries that are no page": clamp_pages,
}


@pytest.mark.parametrize("name", PAGED)
def test_paged_faults_fail(run, install, name):
    assert run("paged-logits", name).status == "pass"
    install(indexer, fp8_paged_mqa_logits=paged_like(PAGED[name]))
    assert run("paged-logits", name).status == "fail"


def test_paged_offsets_that_wrap_fail(run, install):
    wanted = 2**31 // (64 * 132)

    def wrap(given, q, cache):
        given["tables"] = torch.where(given["tables"] < wanted, given["tables"], 0)

    # The reference reads the scales of the whole cache into one tensor; only the pages that are named are given to it.
    right = indexer.fp8_paged_mqa_logits

    def named_only(q, cache, weights, lengths, tables, schedule, width):
        pages, place = torch.unique(tables.long(), return_inverse=True)
        return right(q, cache[pages], weights, lengths, place.int(), schedule, width)

    install(indexer, fp8_paged_mqa_logits=named_only)
    assert run("far", "paged cache").status == "pass"
    install(indexer, fp8_paged_mqa_logits=paged_like(wrap))
    assert run("far", "paged cache").status == "fail"


def test_every_case_is_covered():
    tried = {*FLAT, "two requests", "chunked"}
    assert all(any(case.name.startswith(name) for name in tried) for case in logits_cases.CASES)
    assert all(any(case.name.startswith(name) for name in PAGED) for case in paged_cases.CASES)
