"""Every gate passes on the real op and catches a broken one; small shapes under the interpreter."""

import pytest
import torch

from dsa_kernels.bench import GateError, indexer_cases, mla_cases, quant_cases
from dsa_kernels.bench.inputs import random_fp8_ds_mla, random_rows

L2 = 2**10


def small_cases(device):
    cache = random_rows(128, 576, device)
    flat = mla_cases.mla_inputs(cache, 3, 4, 40, L2, span=64, most_rotations=2)
    yield mla_cases.mla_case("decode", flat, {"tokens": 3})
    pages = mla_cases.mla_inputs(random_fp8_ds_mla(128, device), 2, 4, 40, L2, span=32, next_n=2)
    yield mla_cases.mla_case("decode", pages, {"tokens": 2})
    ragged = indexer_cases.ragged_inputs(6, 70, 4, device)
    yield indexer_cases.ragged_case(ragged, {"rows": 6})
    yield indexer_cases.chunked_case(ragged, 16, {"rows": 6})
    yield indexer_cases.paged_case(indexer_cases.paged_inputs(2, 2, 70, 4, L2, device=device), {"batch": 2})
    yield indexer_cases.topk_case(indexer_cases.topk_inputs(3, 90, 16, L2, device, causal=True), {"rows": 3})
    yield quant_cases.q_quant_case(3, 4, 64, False, {"tokens": 3}, 50, device)
    yield quant_cases.k_cache_case(5, {"tokens": 5}, device)


OPS = [
    (mla_cases, "sparse_mla_fwd", 0),
    (mla_cases, "sparse_mla_with_kvcache", 1),
    (indexer_cases, "fp8_mqa_logits", 2),
    (indexer_cases, "indexer_topk", 3),
    (indexer_cases, "fp8_paged_mqa_logits", 4),
    (indexer_cases, "topk_indices", 5),
    (quant_cases, "fused_indexer_q_rope_quant", 6),
    (quant_cases, "indexer_k_quant_and_cache", 7),
]


@pytest.mark.parametrize("index", range(8))
def test_the_real_op_passes_its_gate(device, index):
    torch.manual_seed(0)
    case = list(small_cases(device))[index]
    assert case.check() <= case.limit
    assert case.work.moved_bytes > 0
    for call in case.calls:
        call()


def broken(op):
    """The op with one element of what it writes or returns wrong."""

    def spoil(value):
        first = (0,) * value.dim()
        value[first] = value[first] + 8 if value.dtype.is_floating_point else value[first] ^ 1

    def run(*args, **kwargs):
        result = op(*args, **kwargs)
        if result is None:  # the k-cache write: spoil the slot of the first token
            page, offset = divmod(int(args[2][0]), 64)
            args[1].view(args[1].shape[0], -1)[page, offset * 128] ^= 1
            return None
        spoil(result[0] if isinstance(result, tuple) else result)
        return result

    return run


@pytest.mark.parametrize(("module", "name", "index"), OPS, ids=[name for _, name, _ in OPS])
def test_a_broken_op_fails_its_gate(device, monkeypatch, module, name, index):
    torch.manual_seed(0)
    case = list(small_cases(device))[index]
    monkeypatch.setattr(module, name, broken(getattr(module, name)))
    if name == "fused_indexer_q_rope_quant":
        # One code in the rope part is within the limit: turn by the wrong positions instead.
        rotated = quant_cases.naive_fused_indexer_q
        monkeypatch.setattr(module, name, lambda *a: rotated(a[0] + 1, *a[1:]))
    with pytest.raises(GateError):
        case.check()


def test_unwritten_output_is_an_error(device, monkeypatch):
    case = next(small_cases(device))
    real = mla_cases.sparse_mla_fwd

    def leaves_a_token(q, kv, indices, scale, out, **options):
        result = real(q, kv, indices, scale, out=out, **options)
        out[1, 0, 0] = float("nan")
        return result

    monkeypatch.setattr(mla_cases, "CHECKED_TOKENS", 1)
    monkeypatch.setattr(mla_cases, "sparse_mla_fwd", leaves_a_token)
    with pytest.raises(GateError, match=r"not written|relative error nan"):
        case.check()


def test_a_short_context_is_padded_and_counted_as_it_is(device):
    inputs = mla_cases.mla_inputs(random_rows(64, 576, device), 2, 4, 100, L2, span=32)
    assert (inputs.selections[0][:, 0] >= 0).sum(dim=1).tolist() == [32, 32]
    case = mla_cases.mla_case("decode", inputs, {"tokens": 2})
    assert case.work.flop == 2 * 2 * 4 * 32 * (576 + 512)
    assert case.check() <= case.limit


def test_requests_select_from_rows_of_their_own(device):
    inputs = mla_cases.mla_inputs(random_rows(96, 576, device), 4, 1, 8, L2, span=32, next_n=2)
    first, last = inputs.selections[0][:2], inputs.selections[0][2:]
    assert 0 <= int(first.min()) <= int(first.max()) < 32
    assert 32 <= int(last.min()) <= int(last.max()) < 64


def test_a_result_is_as_wide_as_asked(device):
    inputs = indexer_cases.paged_inputs(2, 1, 70, 4, L2, width=300, device=device)
    assert inputs.run(inputs.tables[0]).shape == (2, 300)
    case = indexer_cases.paged_case(inputs, {"batch": 2})
    assert case.check() <= case.limit


def test_requests_share_pages_where_memory_is_short(device):
    inputs = indexer_cases.paged_inputs(4, 1, 130, 4, L2, most_pages=5, device=device)
    assert inputs.cache.shape[0] == 5
    assert int(inputs.tables.max()) == 4
    case = indexer_cases.paged_case(inputs, {"batch": 4})
    assert case.check() <= case.limit
