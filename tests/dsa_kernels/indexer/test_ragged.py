import pytest
import torch

from dsa_kernels.errors import ArgumentError
from dsa_kernels.indexer import fp8_mqa_logits, naive_fp8_mqa_logits
from dsa_kernels.indexer import ragged as ragged_module
from dsa_kernels.indexer.ragged import widen_keys, write_logits
from tests.dsa_kernels.indexer.cases import POISON, calc_diff, ragged_case

BOUNDS = ("causal", "two requests", "empty", "outside", "random")


@pytest.fixture
def poisoned(monkeypatch):
    """Every fresh result starts out poisoned, so that what is not written shows."""
    original = ragged_module.empty_logits

    def poisoned_logits(num_rows, width, device):
        logits = original(num_rows, width, device)
        return logits.fill_(POISON)

    monkeypatch.setattr(ragged_module, "empty_logits", poisoned_logits)


def shapes(on_gpu):
    return [(70, 32, 301), (5, 64, 257)] if not on_gpu else [(300, 32, 3001), (257, 64, 2049)]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("which", [0, 1], ids=["32 heads", "64 heads"])
@pytest.mark.usefixtures("poisoned")
def test_full_width_matches_the_reference(device, on_gpu, bounds, which):
    case = ragged_case(*shapes(on_gpu)[which], bounds, device)
    assert calc_diff(fp8_mqa_logits(*case), naive_fp8_mqa_logits(*case)) < 1e-6


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("width", [40, 333])
@pytest.mark.usefixtures("poisoned")
def test_compressed_matches_the_reference(device, bounds, width):
    case = ragged_case(9, 32, 301, bounds, device)
    got = fp8_mqa_logits(*case, max_seqlen_k=width)
    assert got.shape == (9, width)
    assert calc_diff(got, naive_fp8_mqa_logits(*case, max_seqlen_k=width)) < 1e-6


@pytest.mark.parametrize("heads", [1, 5, 16, 128])
def test_any_head_count(device, heads):
    case = ragged_case(6, heads, 140, "random", device)
    assert calc_diff(fp8_mqa_logits(*case), naive_fp8_mqa_logits(*case)) < 1e-6


@pytest.mark.parametrize("width", [0, 200])
@pytest.mark.usefixtures("poisoned")
def test_unclean_logits_are_written_inside_the_bounds_only(device, width):
    case = ragged_case(9, 32, 301, "two requests", device)
    got = fp8_mqa_logits(*case, clean_logits=False, max_seqlen_k=width)
    expected = naive_fp8_mqa_logits(*case, max_seqlen_k=width)
    outside = expected == float("-inf")
    assert (got[outside] == POISON).all()
    assert calc_diff(got.masked_fill(outside, float("-inf")), expected) < 1e-6


def test_uint8_codes_and_views_give_the_same_bits(device):
    q, (k, scale), weights, starts, ends = ragged_case(7, 32, 150, "random", device)
    expected = fp8_mqa_logits(q, (k, scale), weights, starts, ends)
    wider = torch.zeros(7, 2, 40, 128, dtype=torch.uint8, device=device)
    wider[:, 1, 3:35] = q.view(torch.uint8)
    padded = torch.zeros(7, 50, device=device)
    padded[:, :32] = weights
    other = torch.zeros(150, 4, device=device)
    other[:, 0] = scale
    got = fp8_mqa_logits(wider[:, 1, 3:35], (k.view(torch.uint8), other[:, :1]), padded[:, :32], starts, ends)
    assert torch.equal(got, expected)


def test_a_row_does_not_depend_on_its_neighbours(device):
    q, kv, weights, starts, ends = ragged_case(70, 32, 301, "random", device)
    whole = fp8_mqa_logits(q, kv, weights, starts, ends)
    part = slice(63, 68)
    assert torch.equal(fp8_mqa_logits(q[part], kv, weights[part], starts[part], ends[part]), whole[part])


def test_no_rows_and_no_keys(device):
    q, (k, scale), weights, starts, ends = ragged_case(3, 32, 40, "causal", device)
    assert fp8_mqa_logits(q[:0], (k, scale), weights[:0], starts[:0], ends[:0]).shape == (0, 40)
    assert fp8_mqa_logits(q, (k[:0], scale[:0]), weights, starts, ends).shape == (3, 0)
    assert (fp8_mqa_logits(q, (k[:0], scale[:0]), weights, starts, ends, max_seqlen_k=5) == float("-inf")).all()


def test_logits_are_addressed_in_64_bits(device):
    case = ragged_case(5, 32, 140, "random", device)
    q, (k, scale), weights, starts, ends = case
    far = torch.empty(2**31 + 1024, dtype=torch.float32, device=device)
    logits = far.as_strided((5, 140), (2**29, 1))
    write_logits(q, widen_keys(k), scale, weights, starts, ends, logits, compressed=False)
    expected = naive_fp8_mqa_logits(*case)
    outside = expected == float("-inf")
    assert calc_diff(logits.masked_fill(outside, float("-inf")), expected) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [32, 64])
@pytest.mark.parametrize("compressed", [False, True], ids=["full", "compressed"])
def test_deep_gemm_shapes(device, heads, compressed):
    for num_rows, num_keys in ((2048, 4096), (4096, 8192)):
        case = ragged_case(num_rows, heads, num_keys, "causal", device)
        width = num_keys if compressed else 0
        got = fp8_mqa_logits(*case, max_seqlen_k=width)
        expected = naive_fp8_mqa_logits(*case, dtype=torch.float64)
        assert calc_diff(got, expected) < 1e-6


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"q": torch.zeros(3, 32, 64, dtype=torch.uint8)}, "q"),
        ({"q": torch.zeros(3, 32, 128)}, "q"),
        ({"q": torch.zeros(3, 129, 128, dtype=torch.uint8)}, "q"),
        ({"q": torch.zeros(3, 32, 136, dtype=torch.uint8)[..., 1:129]}, "q"),
        ({"kv": torch.zeros(40, 128, dtype=torch.uint8)}, "kv"),
        ({"kv": (torch.zeros(80, 128, dtype=torch.uint8)[::2], torch.zeros(40))}, "kv[0]"),
        ({"kv": (torch.zeros(40, 128, dtype=torch.uint8), torch.zeros(41))}, "kv[1]"),
        ({"weights": torch.zeros(3, 31)}, "weights"),
        ({"weights": torch.zeros(3, 32, dtype=torch.bfloat16)}, "weights"),
        ({"cu_seq_len_k_start": torch.zeros(3, dtype=torch.int64)}, "cu_seq_len_k_start"),
        ({"cu_seq_len_k_end": torch.zeros(4, dtype=torch.int32)}, "cu_seq_len_k_end"),
        ({"max_seqlen_k": -1}, "max_seqlen_k"),
    ],
)
def test_wrong_input_names_the_argument(change, argument):
    arguments = {
        "q": torch.zeros(3, 32, 128, dtype=torch.uint8),
        "kv": (torch.zeros(40, 128, dtype=torch.uint8), torch.zeros(40)),
        "weights": torch.zeros(3, 32),
        "cu_seq_len_k_start": torch.zeros(3, dtype=torch.int32),
        "cu_seq_len_k_end": torch.zeros(3, dtype=torch.int32),
    }
    with pytest.raises(ArgumentError, match="accepted") as caught:
        fp8_mqa_logits(**(arguments | change))
    assert caught.value.name == argument
