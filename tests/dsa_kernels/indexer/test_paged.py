import pytest
import torch

from dsa_kernels.errors import ArgumentError
from dsa_kernels.indexer import fp8_paged_mqa_logits, naive_fp8_paged_mqa_logits, row_lengths
from dsa_kernels.indexer import paged as paged_module
from tests.dsa_kernels.indexer.cases import POISON, calc_diff, paged_case


@pytest.fixture
def poisoned(monkeypatch):
    """Every fresh result starts out poisoned, so that what is not written shows."""
    original = paged_module.empty_logits
    monkeypatch.setattr(paged_module, "empty_logits", lambda *arguments: original(*arguments).fill_(POISON))


def compare(q, cache, weights, lengths, tables, width):
    got = fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, width)
    assert got.shape == (q.shape[0] * q.shape[1], width)
    return calc_diff(got, naive_fp8_paged_mqa_logits(q, cache, weights, lengths, tables, width))


@pytest.mark.parametrize("per_row", [False, True], ids=["1-D lengths", "2-D lengths"])
@pytest.mark.parametrize("next_n", [1, 2, 3, 4])
@pytest.mark.parametrize("heads", [32, 64])
@pytest.mark.usefixtures("poisoned")
def test_matches_the_reference(device, on_gpu, next_n, heads, per_row):
    longest = 2000 if on_gpu else 275
    case = paged_case(3, next_n, heads, 64, longest, device, per_row)
    assert compare(*case, longest + 13) < 1e-6


@pytest.mark.parametrize(("next_n", "heads"), [(1, 1), (2, 5), (5, 16), (5, 64), (6, 32), (2, 128)])
@pytest.mark.usefixtures("poisoned")
def test_any_head_count_and_more_rows_than_a_program_takes(device, next_n, heads):
    assert compare(*paged_case(2, next_n, heads, 64, 200, device, per_row=True), 200) < 1e-6


@pytest.mark.parametrize(("share", "most_tiles"), [(1, 100), (2, 100), (3, 2), (1, 1), (100, 100)])
@pytest.mark.parametrize("page_size", [16, 64, 128])
@pytest.mark.usefixtures("poisoned")
def test_a_program_passes_over_several_tiles(device, monkeypatch, share, most_tiles, page_size):
    monkeypatch.setattr(paged_module, "programs_per_request", lambda requests, slots: share)
    monkeypatch.setattr(paged_module, "MOST_KEYS", most_tiles * paged_module.paged_config(80, 32, 2).block_n)
    assert compare(*paged_case(2, 2, 32, page_size, 700, device, per_row=True), 640) < 1e-6


@pytest.mark.usefixtures("poisoned")
def test_a_short_context_in_a_wide_result_is_shared_as_in_a_narrow_one(device, monkeypatch):
    """Under CUDA graphs the result is as wide as the longest context that the server takes."""
    monkeypatch.setattr(paged_module, "programs_per_request", lambda requests, slots: 3)
    q, cache, weights, lengths, tables = paged_case(2, 2, 32, 64, 300, device, per_row=True)
    narrow = fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, 300)
    wide = fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, 20000)
    assert torch.equal(wide[:, :300], narrow)
    assert (wide[:, 300:] == float("-inf")).all()


def test_weights_of_any_stride_and_alignment_give_the_same_bits(device):
    q, cache, weights, lengths, tables = paged_case(2, 2, 32, 16, 96, device, per_row=True)
    expected = fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, 96)
    wider = torch.full((5, 41), float("nan"), device=device)
    wider[1:, 3:35] = weights
    assert torch.equal(fp8_paged_mqa_logits(q, cache, wider[1:, 3:35], lengths, tables, None, 96), expected)
    wide_q = torch.zeros(2, 3, 40, 128, dtype=torch.uint8, device=device)
    wide_q[:, 1:, 3:35] = q.view(torch.uint8)
    assert torch.equal(fp8_paged_mqa_logits(wide_q[:, 1:, 3:35], cache, weights, lengths, tables, None, 96), expected)


@pytest.mark.parametrize("page_size", [4, 16, 256])
@pytest.mark.parametrize("gap", [0, 4096], ids=["dense", "pages apart"])
@pytest.mark.usefixtures("poisoned")
def test_page_sizes_and_strides(device, page_size, gap):
    case = paged_case(2, 2, 32, page_size, 150, device, per_row=True, gap=gap)
    assert compare(*case, 150) < 1e-6


@pytest.mark.usefixtures("poisoned")
def test_context_beyond_the_width_or_the_table_is_cut(device):
    q, cache, weights, lengths, tables = paged_case(2, 1, 32, 16, 200, device, per_row=True)
    assert compare(q, cache, weights, lengths, tables, 131) < 1e-6
    assert compare(q, cache, weights, lengths, tables[:, :5], 200) < 1e-6
    unclean = fp8_paged_mqa_logits(q, cache, weights, lengths, tables[:, :5], None, 200, clean_logits=False)
    # What a row should see but the table does not name is -inf, clean or not.
    assert (unclean[-1, 80:200] == float("-inf")).all()


@pytest.mark.usefixtures("poisoned")
def test_entries_that_are_no_page_give_minus_infinity(device):
    q, cache, weights, lengths, tables = paged_case(2, 1, 32, 16, 96, device, per_row=True)
    lengths[:] = 96
    tables[1, 1:4] = torch.tensor([-1, cache.shape[0], -(2**31)], dtype=torch.int32)
    got = fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, 96)
    assert (got[1, 16:64] == float("-inf")).all()
    assert torch.isfinite(got[1, :16]).all()


@pytest.mark.usefixtures("poisoned")
def test_unclean_logits_are_written_inside_the_lengths_only(device):
    q, cache, weights, lengths, tables = paged_case(3, 2, 32, 16, 200, device, per_row=True)
    got = fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, 210, clean_logits=False)
    outside = torch.arange(210, device=device) >= lengths.reshape(-1, 1)
    assert (got[outside] == POISON).all()
    assert torch.isfinite(got[~outside]).all()


def test_keys_are_addressed_in_64_bits(device):
    q, cache, weights, lengths, tables = paged_case(1, 1, 32, 16, 48, device, per_row=True)
    storage = torch.empty(2**32 + 2**16, dtype=torch.uint8, device=device)
    far = storage.as_strided((3, 16, 132), (2**31 + 4096, 132, 1)).unsqueeze(2)
    far.copy_(cache[tables[0].long()])
    order = torch.tensor([[2, 0, 1]], dtype=torch.int32, device=device)
    near = cache[tables[0].long()].contiguous()
    got = fp8_paged_mqa_logits(q, far, weights, lengths, order, None, 48)
    assert calc_diff(got, naive_fp8_paged_mqa_logits(q, near, weights, lengths, order, 48)) < 1e-6


def test_one_dimensional_lengths_count_the_draft_tokens():
    lengths = row_lengths(torch.tensor([10, 1], dtype=torch.int32), 2, 3)
    assert lengths.tolist() == [8, 9, 10, -1, 0, 1]


def test_an_empty_batch_and_an_empty_cache(device):
    q, cache, weights, lengths, tables = paged_case(2, 1, 32, 16, 48, device, per_row=True)
    assert fp8_paged_mqa_logits(q[:0], cache, weights[:0], lengths[:0], tables[:0], None, 48).shape == (0, 48)
    assert (fp8_paged_mqa_logits(q, cache[:0], weights, lengths, tables, None, 48) == float("-inf")).all()
    assert (fp8_paged_mqa_logits(q, cache, weights, lengths, tables[:, :0], None, 48) == float("-inf")).all()


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"q": torch.zeros(2, 32, 128, dtype=torch.uint8)}, "q"),
        ({"q": torch.zeros(2, 0, 32, 128, dtype=torch.uint8), "weights": torch.zeros(0, 32)}, "q"),
        ({"kv_cache": torch.zeros(3, 16, 1, 128, dtype=torch.uint8)}, "kv_cache"),
        ({"kv_cache": torch.zeros(3, 24, 1, 132, dtype=torch.uint8)}, "kv_cache"),
        ({"weights": torch.zeros(2, 1, 32)}, "weights"),
        ({"context_lens": torch.zeros(2, 2, dtype=torch.int32)}, "context_lens"),
        ({"context_lens": torch.zeros(2, dtype=torch.int64)}, "context_lens"),
        ({"block_tables": torch.zeros(3, 4, dtype=torch.int32)}, "block_tables"),
        ({"max_context_len": -5}, "max_context_len"),
    ],
)
def test_wrong_input_names_the_argument(change, argument):
    arguments = {
        "q": torch.zeros(2, 1, 32, 128, dtype=torch.uint8),
        "kv_cache": torch.zeros(3, 16, 1, 132, dtype=torch.uint8),
        "weights": torch.zeros(2, 32),
        "context_lens": torch.zeros(2, dtype=torch.int32),
        "block_tables": torch.zeros(2, 4, dtype=torch.int32),
        "max_context_len": 64,
    }
    with pytest.raises(ArgumentError, match="accepted") as caught:
        fp8_paged_mqa_logits(**(arguments | change))
    assert caught.value.name == argument
