"""Every case of batch invariance fails on an op whose results follow the batch in their last bit."""

import pytest
import torch

from dsa_kernels import indexer, mhc, sparse_mla


def following(op, rows):
    """The op, off by the last bit where the batch has more than `rows` rows; the switch is taken and forgotten."""

    def broken(*given, batch_invariant=False, **named):
        out = op(*given, **named)
        first = out[0] if isinstance(out, tuple) else out
        if first.shape[0] > rows:
            first.copy_(torch.nextafter(first, torch.full_like(first, float("inf"))))
        return out

    return broken


def exact_attention(q, cache, indices, sm_scale, out, **given):
    found = sparse_mla.naive_sparse_mla_with_kvcache(q, cache, indices, sm_scale, **given)
    return out.copy_(found[0]), found[1].float()


def exact_flat(q, kv, indices, sm_scale, out, **given):
    found = sparse_mla.naive_sparse_mla_fwd(q, kv, indices, sm_scale, **given)
    return out.copy_(found[0]), found[1].float(), found[2].float()


def exact_product(x, fn, out, sqrsum, n_splits, batch_invariant):
    out.zero_()
    sqrsum.zero_()
    # A token at a time: one product of all of them is no reference for bits.
    for token, row in enumerate(x):
        product, squares = mhc.naive_hc_prenorm(row[None], fn)
        out[0, token], sqrsum[0, token] = product[0], squares[0]


def each_row(op, at):
    """A reference for bits: called for one row of the arguments `at` at a time."""

    def one_by_one(*given, **named):
        rows = range(len(given[at[0]]))
        parts = [
            op(*(one[row : row + 1] if place in at else one for place, one in enumerate(given)), **named)
            for row in rows
        ]
        return torch.cat(parts)

    return one_by_one


@pytest.fixture
def exact(install):
    """References in place of the ops, which compute a row alone."""

    def one_token(op):
        def attend(*, q, out, indices, sm_scale, batch_invariant=False, **given):
            cache = given.pop("kv_cache" if "kv_cache" in given else "kv")
            per_token = ("topk_length", "extra_indices", "extra_topk_length")
            parts = []
            for token in range(len(q)):
                at = slice(token, token + 1)
                some = {name: one[at] if name in per_token and one is not None else one for name, one in given.items()}
                parts.append(op(q[at], cache, indices[at], sm_scale, out[at], **some))
            return tuple(torch.cat(one) for one in zip(*parts, strict=True))

        return attend

    install(
        sparse_mla,
        sparse_mla_fwd=one_token(exact_flat),
        sparse_mla_with_kvcache=one_token(exact_attention),
    )

    def logits(*given):
        return indexer.naive_fp8_mqa_logits(*given).float()

    def paged(q, cache, weights, lengths, tables, schedule, width, batch_invariant=False):
        next_n = q.shape[1]
        parts = []
        for row in range(len(weights)):
            request, draft = divmod(row, next_n)
            at = slice(request, request + 1)
            given = q[at, draft : draft + 1], cache, weights[row : row + 1], lengths[at, draft : draft + 1], tables[at]
            parts.append(indexer.naive_fp8_paged_mqa_logits(*given, width).float())
        return torch.cat(parts)

    install(indexer, fp8_mqa_logits=each_row(logits, (0, 2, 3, 4)), fp8_paged_mqa_logits=paged)
    install(mhc, hc_prenorm_gemm=exact_product)


FOLLOWING = {
    "attention in any": (sparse_mla, "sparse_mla_with_kvcache", 2),
    "attention over two": (sparse_mla, "sparse_mla_with_kvcache", 2),
    "logits": (indexer, "fp8_mqa_logits", 2),
    "paged logits": (indexer, "fp8_paged_mqa_logits", 2),
}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("case", [*FOLLOWING, "mHC product"])
def test_what_follows_the_batch_fails_its_case(run, install, case):
    record = run("invariance", case)
    assert record.status == "pass", record
    if case == "mHC product":

        def follows_the_splits(x, fn, out, sqrsum, n_splits, batch_invariant):
            exact_product(x, fn, out, sqrsum, n_splits, batch_invariant)
            out[-1] += 2.0**-10 * (n_splits > 2)

        install(mhc, hc_prenorm_gemm=follows_the_splits)
    else:
        module, name, rows = FOLLOWING[case]
        install(module, **{name: following(getattr(module, name), rows)})
    assert run("invariance", case).status == "fail"
