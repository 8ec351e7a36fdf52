import pytest
import torch

from dsa_kernels.errors import ArgumentError
from dsa_kernels.indexer import chunked as chunked_module
from dsa_kernels.indexer import fp8_mqa_logits, indexer_topk, naive_fp8_mqa_logits, naive_topk_indices, topk_indices
from dsa_kernels.indexer.chunked import rows_per_chunk
from tests.dsa_kernels.indexer.cases import ragged_case


@pytest.mark.parametrize("bounds", ["causal", "two requests", "outside"])
@pytest.mark.parametrize("budget", [1, 30_000, 2**40], ids=["one row", "some rows", "everything"])
def test_chunks_change_nothing(device, monkeypatch, bounds, budget):
    case = ragged_case(11, 32, 200, bounds, device)
    starts, ends = case[3], case[4]
    original = chunked_module.empty_logits
    monkeypatch.setattr(chunked_module, "empty_logits", lambda *arguments: original(*arguments).fill_(float("inf")))
    got = indexer_topk(*case, k=40, budget_bytes=budget)
    assert torch.equal(got, topk_indices(fp8_mqa_logits(*case), starts, ends, 40))
    # And what the two ops give is what the fp64 reference ranks highest, up to values too close to tell in fp32.
    exact = naive_fp8_mqa_logits(*case)
    expected = naive_topk_indices(exact.cpu(), starts.cpu(), ends.cpu(), 40)
    for row in range(11):
        mine, best = got[row][got[row] >= 0].long().cpu(), expected[row][expected[row] >= 0].long()
        assert len(mine) == len(best)
        if len(best):
            values = exact[row].cpu()
            difference = values[mine + starts[row].cpu()].sort().values - values[best + starts[row].cpu()].sort().values
            assert difference.abs().max() <= 1e-5 * values[best + starts[row].cpu()].abs().max()


def test_the_budget_bounds_the_scratch(device, monkeypatch):
    sizes = []
    original = chunked_module.empty_logits
    monkeypatch.setattr(
        chunked_module,
        "empty_logits",
        lambda rows, width, where: sizes.append(rows * width * 4) or original(rows, width, where),
    )
    indexer_topk(*ragged_case(23, 32, 300, "causal", device), k=5, budget_bytes=60_000)
    assert sizes == [6 * 300 * 4]


def test_rows_per_chunk():
    row = 4 * 131_072 + 2 * 128 * 64
    assert rows_per_chunk(8192, 131_072, 64, 256 * 2**20) == 482
    assert 482 * row <= 256 * 2**20
    assert rows_per_chunk(10, 131_072, 64, 1) == 1
    assert rows_per_chunk(10, 131_072, 64, 2**40) == 10


def test_no_rows_and_no_keys(device):
    q, (k, scale), weights, starts, ends = ragged_case(3, 32, 40, "causal", device)
    assert indexer_topk(q[:0], (k, scale), weights[:0], starts[:0], ends[:0], 4).shape == (0, 4)
    assert (indexer_topk(q, (k[:0], scale[:0]), weights, starts, ends, 4) == -1).all()


@pytest.mark.parametrize(("change", "argument"), [({"budget_bytes": 0}, "budget_bytes"), ({"k": 0}, "k")])
def test_wrong_input_names_the_argument(change, argument):
    case = ragged_case(3, 32, 40, "causal", torch.device("cpu"))
    with pytest.raises(ArgumentError, match="accepted") as caught:
        indexer_topk(*case, **({"k": 4} | change))
    assert caught.value.name == argument
