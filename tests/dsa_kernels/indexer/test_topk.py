from unittest import mock

import pytest
import torch

from dsa_kernels.errors import ArgumentError
from dsa_kernels.indexer import naive_topk_indices, topk, topk_indices
from dsa_kernels.indexer.config import FEW_ROWS, MARK_WORDS, SELECT_BLOCK, SHARED_LENGTH, THIN_GROUPS, one_program_limit

INF = float("inf")


def from_bits(bits: torch.Tensor) -> torch.Tensor:
    return bits.to(torch.int32).view(torch.float32)


def rows_of(name: str, width: int) -> torch.Tensor:
    """One row of `width` values that some selector has been seen to get wrong, or might."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(width, generator=generator)
    positions = torch.arange(width)
    if name == "random":
        return noise
    if name == "all equal":
        return torch.full((width,), 0.625)
    if name == "one bit apart":
        # One histogram bin at any coarse resolution; more of them than any fixed candidate buffer holds.
        return from_bits(0x3F800000 + torch.randperm(width, generator=generator))
    if name == "two values":
        return torch.where(positions % 3 == 0, 1.5, torch.nextafter(torch.tensor(1.5), torch.tensor(2.0)))
    if name == "between k and 2k candidates":
        row = torch.full((width,), -5.0)
        row[torch.randperm(width, generator=generator)[:150]] = noise[:150].abs() + 1
        return row
    if name == "denormals":
        return from_bits(torch.randint(0, 5000, (width,), generator=generator)) * torch.where(noise > 0, 1.0, -1.0)
    if name == "zeros of both signs":
        return torch.where(noise > 0, 0.0, -0.0)
    if name == "nan and infinities":
        row = noise.clone()
        row[positions % 5 == 0] = -INF
        row[positions % 7 == 0] = float("nan")
        row[positions % 501 == 3] = INF
        row[positions % 11 == 0] = from_bits(torch.tensor([-1]))  # a NaN with the sign set
        return row
    if name == "nothing to select":
        return torch.where(positions % 2 == 0, -INF, float("nan"))
    if name == "all negative":
        return -noise.abs() - 1e-30
    if name == "far outliers":
        row = noise.clone()
        row[positions % 1000 == 7] = 3e38
        row[positions % 3 == 0] = -3e38
        return row
    if name == "two clusters":
        # The k-th largest lies among values a millionth apart, far from all others.
        return torch.where(noise > 1, 100 + noise * 1e-6, noise)
    if name == "every exponent":
        bits = torch.randint(-(2**31), 2**31, (width,), generator=generator)
        return from_bits(bits)
    raise ValueError(name)


NAMES = (
    "random",
    "all equal",
    "one bit apart",
    "two values",
    "between k and 2k candidates",
    "denormals",
    "zeros of both signs",
    "nan and infinities",
    "nothing to select",
    "all negative",
    "far outliers",
    "two clusters",
    "every exponent",
)


@pytest.fixture
def share_rows_beyond(monkeypatch):
    """Rows longer than the number that this is called with are thinned out by many programs."""
    return lambda limit: monkeypatch.setattr(topk, "one_program_limit", lambda num_rows: limit)


def check(logits, starts, ends, k):
    # What lies behind a row's results belongs to somebody else.
    wide = torch.full((logits.shape[0], k + 64), -77, dtype=torch.int32, device=logits.device)
    out = wide[:, :k]
    got = topk_indices(logits, starts, ends, k, out=out)
    assert got is out
    expected = naive_topk_indices(logits.cpu(), None if starts is None else starts.cpu(), ends.cpu(), k)
    assert torch.equal(got.cpu(), expected)
    assert (wide[:, k:] == -77).all()
    return got


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 2048])
def test_traps(device, on_gpu, name, k):
    width = 40_000 if on_gpu else 6_000
    row = rows_of(name, width)
    logits = torch.stack((row, row.flip(0), row)).to(device)
    got = check(logits, None, torch.tensor([width, width - 5, SELECT_BLOCK - 3], device=device), k)
    # Against another sort: the selected values are the largest ones.
    values = logits[0].nan_to_num(nan=-INF, posinf=INF, neginf=-INF)
    wanted = values.sort(descending=True).values[:k]
    wanted = wanted[wanted > -INF]
    assert torch.equal(values[got[0][got[0] >= 0].long()].sort(descending=True).values, wanted)


def test_bounds_short_rows_and_padding(device):
    generator = torch.Generator().manual_seed(4)
    starts = torch.tensor([0, 17, 4096, 5000, 5, 5200, -3, 100], dtype=torch.int32)
    ends = torch.tensor([1, 5200, 4500, 5003, 5, 9999, 50, 20], dtype=torch.int32)
    logits = torch.randn(8, 5200, generator=generator)
    check(logits.to(device), starts.to(device), ends.to(device), 333)


def test_values_outside_the_bounds_are_never_selected(device):
    logits = torch.full((2, 9000), INF)
    logits[:, 100:5000] = torch.arange(4900) * 1.0
    starts, ends = torch.tensor([100, 100]), torch.tensor([5000, 4999])
    got = check(logits.to(device), starts.to(device), ends.to(device), 10)
    assert got[0].tolist() == list(range(4890, 4900))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("k", [1, 500])
def test_rows_of_several_tiles(device, share_rows_beyond, shared, k):
    """Starts and ends inside words, whole tiles outside a row, all candidates in one tile."""
    if shared:
        share_rows_beyond(SELECT_BLOCK)
    generator = torch.Generator().manual_seed(5)
    part = 32 * MARK_WORDS
    width = 3 * part + 77
    logits = torch.randn(7, width, generator=generator)
    logits[1] = logits[1].sort().values
    logits[2] = logits[2].sort(descending=True).values
    logits[3] = torch.arange(width) // 3 * 1.0
    # Whole words of candidates, all of them between two parts.
    logits[4, part - 300 : part + 300] += 100
    starts = torch.tensor([0, 33, 31, 1, 0, part + 5, 7], dtype=torch.int32)
    ends = torch.tensor([width, width, width - 1, width - 33, width, width, part + 31], dtype=torch.int32)
    check(logits.to(device), starts.to(device), ends.to(device), k)


@pytest.mark.parametrize("name", ["random", "all equal", "two values", "nan and infinities", "every exponent"])
def test_rows_that_one_program_thins_out_beside_rows_that_many_do(device, share_rows_beyond, name):
    """Lengths around the most that is selected from as it is, and around the longest of one program."""
    limit = 6000
    share_rows_beyond(limit)
    lengths = [SELECT_BLOCK - 1, SELECT_BLOCK, SELECT_BLOCK + 1, limit - 1, limit, limit + 1, limit + 999]
    width = limit + 999 + 40
    logits = rows_of(name, width).expand(len(lengths), -1).to(device)
    starts = torch.arange(len(lengths), dtype=torch.int32) * 5
    check(logits, starts.to(device), (starts + torch.tensor(lengths)).to(device), 700)


def test_rows_begin_anywhere_in_a_line(device):
    """Every element is read whatever the address of the row's first one: the largest are the first and the last."""
    count = SELECT_BLOCK + 29
    buffer = torch.full((7, 2 * SELECT_BLOCK + 13), INF, device=device)
    for offset in (0, 1, 2, 3, 4, 15, 30, 31):
        logits = buffer[:, offset:]
        starts = torch.arange(7, device=device) * 3
        for row, start in enumerate(starts.tolist()):
            logits[row, start : start + count] = torch.arange(count, 0, -1)
            logits[row, start + count - 3 : start + count] = 1e6
        got = check(logits, starts, starts + count, 40)
        assert got[6].tolist() == [*range(37), count - 3, count - 2, count - 1]
        buffer.fill_(INF)


@pytest.mark.parametrize("shared", [False, True])
def test_the_last_elements_of_an_unaligned_row_of_whole_tiles(device, share_rows_beyond, shared):
    """Counted from its line, the row needs one more tile than it has elements for."""
    if shared:
        share_rows_beyond(SELECT_BLOCK)
    width = 32 * MARK_WORDS
    logits = torch.randn(3, width + 33, device=device)[:, 5:-28]
    logits[:, -3:] += 100
    check(logits, None, torch.full((3,), width, device=device), 20)


@pytest.mark.parametrize("left", [SELECT_BLOCK - 1, SELECT_BLOCK, SELECT_BLOCK + 1])
def test_as_many_elements_left_as_a_block_holds(device, left):
    row = torch.full((1, SELECT_BLOCK + 500), -INF)
    row[0, :left] = torch.arange(left) * 1.0
    check(row.to(device), None, torch.tensor([row.numel()], device=device), SELECT_BLOCK)


@pytest.mark.parametrize("width", [600, 5600])
def test_ties_among_neighbouring_floats(device, width):
    """Few keys with several values each: intervals of every small width, with equal values at both of their ends."""
    generator = torch.Generator().manual_seed(8)
    spread = torch.tensor([2, 6, 23, 60, *range(184, 200)])[:, None]
    whole = torch.randint(0, 2**30, (spread.numel(), width), generator=generator)
    logits = from_bits(0x3F800000 + whole % spread).to(device)
    ends = torch.full((spread.numel(),), width, device=device)
    for k in (519, 589):
        check(logits, None, ends, k)


@pytest.mark.parametrize("shared", [False, True])
def test_scratch_is_int32_whatever_the_bounds_are(device, monkeypatch, share_rows_beyond, shared):
    """The interpreter would take anything; a kernel compiled for int64 scratch would not compile."""
    if shared:
        share_rows_beyond(SELECT_BLOCK)
    launch = mock.MagicMock()
    monkeypatch.setattr(topk, "select_kernel", launch)
    topk_indices(torch.zeros(1, 5000, device=device), None, torch.tensor([0], device=device), 3)
    pointers = launch.__getitem__.return_value.call_args.args[:7]
    types = [torch.float32, torch.int64, torch.int64, *[torch.int32] * 4]
    assert [pointer.dtype for pointer in pointers] == types


def test_few_long_rows_are_shared():
    assert one_program_limit(1) == one_program_limit(FEW_ROWS) == SHARED_LENGTH
    assert one_program_limit(FEW_ROWS + 1) > 2**30


def test_more_candidates_than_a_block_with_different_values(device):
    """Large values all in few groups: the bound lets nearly everything through, and the whole row is searched."""
    width = 5 * THIN_GROUPS
    row = torch.arange(width) * 1e-4 - 100
    row[torch.arange(width) % THIN_GROUPS < 100] += 1000
    check(row.unsqueeze(0).to(device), None, torch.tensor([width], device=device), 450)
    check(row.unsqueeze(0).to(device), None, torch.tensor([width], device=device), SELECT_BLOCK + 1)


def test_k_beyond_the_number_of_groups(device):
    """The lowest group maximum bounds nothing: here fewer than k elements reach it."""
    row = torch.randn(2 * THIN_GROUPS)
    row[:THIN_GROUPS] += 100
    ends = torch.tensor([row.numel()], device=device)
    check(row.unsqueeze(0).to(device), None, ends, THIN_GROUPS + 5)


@pytest.mark.parametrize("k", [40, 80, 120])
def test_few_groups_with_several_values_each(device, k):
    """Thinning out must not take the k-th largest group maximum where fewer than k groups hold anything."""
    row = torch.full((6000,), -INF)
    row[:50] = torch.arange(50) + 1.0
    row[THIN_GROUPS : THIN_GROUPS + 50] = -torch.arange(50) - 1.0
    check(row.unsqueeze(0).to(device), None, torch.tensor([6000], device=device), k)


def test_k_larger_than_the_row(device):
    got = check(torch.randn(1, 700).to(device), None, torch.tensor([700], device=device), 5001)
    assert got[0, :700].tolist() == list(range(700))


def test_two_dimensional_ends_and_strided_rows(device):
    wide = torch.randn(6, 5000).to(device)
    ends = torch.tensor([[100, 3000], [0, 50], [2999, 1]], dtype=torch.int32, device=device)
    check(wide[:, 1000:4000], None, ends, 64)
    rows = torch.randn(4, 100).to(device)
    out = torch.zeros(4, 20, dtype=torch.int32, device=device)
    topk_indices(rows, None, torch.full((4,), 100, device=device), 7, out=out[:, 3:10])
    assert torch.equal(out[:, 3:10].cpu(), naive_topk_indices(rows.cpu(), None, torch.full((4,), 100), 7))
    assert not out[:, :3].any()
    assert not out[:, 10:].any()


def test_rows_are_addressed_in_64_bits(device):
    far = torch.empty(2**31 + 4096, dtype=torch.float32, device=device)
    logits = far.as_strided((5, 1000), (2**29, 1))
    logits.copy_(torch.randn(5, 1000))
    check(logits, None, torch.full((5,), 1000, device=device), 40)


def test_no_rows(device):
    empty = torch.empty(0, 10, device=device)
    assert topk_indices(empty, None, torch.empty(0, dtype=torch.int32, device=device), 4).shape == (0, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_million(device, name):
    width = 2**20
    logits = rows_of(name, width).unsqueeze(0).to(device)
    check(logits, None, torch.tensor([width], device=device), 2048)


@pytest.mark.gpu
def test_graph_capture_replays_on_new_values(device):
    logits = torch.randn(3, 70_000, device=device)
    ends = torch.tensor([70_000, 50_000, 10], device=device)
    out = topk_indices(logits, None, ends, 2048)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        topk_indices(logits, None, ends, 2048, out=out)
    for _ in range(3):
        logits.copy_(torch.randn(3, 70_000))
        graph.replay()
        assert torch.equal(out.cpu(), naive_topk_indices(logits.cpu(), None, ends.cpu(), 2048))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"logits": torch.zeros(2, 10, dtype=torch.bfloat16)}, "logits"),
        ({"logits": torch.zeros(10, 2).T}, "logits"),
        ({"row_starts": torch.zeros(3, dtype=torch.int32)}, "row_starts"),
        ({"row_ends": torch.zeros(3, dtype=torch.int32)}, "row_ends"),
        ({"row_ends": torch.zeros(2)}, "row_ends"),
        ({"k": 0}, "k"),
        ({"out": torch.zeros(2, 4, dtype=torch.int64)}, "out"),
        ({"out": torch.zeros(2, 5, dtype=torch.int32)}, "out"),
    ],
)
def test_wrong_input_names_the_argument(change, argument):
    arguments = {
        "logits": torch.zeros(2, 10),
        "row_starts": None,
        "row_ends": torch.zeros(2, dtype=torch.int32),
        "k": 4,
    }
    with pytest.raises(ArgumentError, match="accepted") as caught:
        topk_indices(**(arguments | change))
    assert caught.value.name == argument
