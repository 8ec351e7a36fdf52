import pytest
import torch

from dsa_kernels import gluon_support
from dsa_kernels.errors import ArgumentError
from dsa_kernels.mhc import hc_prenorm_gemm, hc_prenorm_splits, naive_hc_prenorm, warmup_mhc

#: What the contract allows, as a share of the sum of magnitudes.
OUT_BOUND, SQUARES_BOUND = 2.0**-14, 2.0**-16


def made(tokens: int, k: int, columns: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, k, generator=generator).bfloat16()
    return x, torch.randn(columns, k, generator=generator) / k**0.5


def product(x: torch.Tensor, fn: torch.Tensor, splits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Results in memory that was NaN before, with a line behind each that must stay so."""
    out = torch.full((splits + 1, x.shape[0], fn.shape[0]), float("nan"), device=x.device)
    sqrsum = torch.full((splits + 1, x.shape[0]), float("nan"), device=x.device)
    hc_prenorm_gemm(x, fn, out[:splits], sqrsum[:splits], splits)
    assert out[splits].isnan().all()
    assert sqrsum[splits].isnan().all()
    return out[:splits].cpu(), sqrsum[:splits].cpu()


def assert_within_bounds(x, fn, out, sqrsum):
    wanted, squares = naive_hc_prenorm(x, fn)
    magnitude = x.double().abs() @ fn.double().abs().T
    assert ((out.double().sum(0) - wanted).abs() <= OUT_BOUND * magnitude).all()
    assert ((sqrsum.double().sum(0) - squares).abs() <= SQUARES_BOUND * squares).all()


@pytest.fixture(params=["served", "plain"])
def kernel(request, monkeypatch, on_gpu):
    """The kernel that serves, and the one in plain Triton, which the interpreter always takes."""
    if request.param == "plain":
        if not on_gpu:
            pytest.skip("the interpreter has it alone")
        monkeypatch.setattr(gluon_support, "USABLE", False)


CASES = [
    (1, 4096, 16),
    (1, 7168, 64),  # fewer steps than splits
    (5, 4096, 1),
    (16, 512, 3),  # splits of unequal length
    (17, 512, 1),
    (33, 1024, 4),
    (130, 512, 2),
    (200, 320, 1),  # a step that k does not fill
    (3, 8, 2),
]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("tokens", "k", "splits"), CASES)
def test_products_and_squares(device, tokens, k, splits):
    x, fn = made(tokens, k)
    assert_within_bounds(x, fn, *product(x.to(device), fn.to(device), splits))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("k", [16_384, 28_672, 20_480])
def test_the_widths_of_the_models(device, on_gpu, k):
    tokens = 8192 if on_gpu else 2
    x, fn = made(tokens, k)
    for splits in (1, 16):
        assert_within_bounds(x, fn, *product(x.to(device), fn.to(device), splits))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("tokens", [1, 40])
def test_no_bit_of_the_matrix_but_the_last_is_lost(device, tokens):
    """All products of one sign and one rounding: tf32 would be off by 2^-11 of the sum, one bf16 number by 2^-8."""
    x = torch.ones(tokens, 512).bfloat16()
    for bits in (0x3F800FFF, 0x3F801000, 0x3FFFFFFF, 0x3F80FFFF, 0x3F807FFF):
        fn = torch.full((24, 512), bits, dtype=torch.int32).view(torch.float32)
        assert_within_bounds(x, fn, *product(x.to(device), fn.to(device), 2))


@pytest.mark.usefixtures("kernel")
def test_sums_that_cancel(device):
    x, fn = made(20, 512)
    x[:, 256:] = x[:, :256]
    fn[:, 256:] = -fn[:, :256]
    assert_within_bounds(x, fn, *product(x.to(device), fn.to(device), 2))


@pytest.mark.usefixtures("kernel")
def test_far_magnitudes(device):
    x, fn = made(20, 512)
    x[::2] *= 1e15
    fn[::3] *= 1e-30
    assert_within_bounds(x, fn, *product(x.to(device), fn.to(device), 2))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("splits", [1, 4])
def test_a_spoiled_token_spoils_no_other(device, splits):
    x, fn = made(70, 512)
    spoiled = torch.tensor([0, 15, 16, 69])
    whole = torch.ones(70, dtype=torch.bool)
    whole[spoiled] = False
    x[spoiled[:2]] = float("nan")
    x[spoiled[2:], 100] = float("inf")
    out, sqrsum = product(x.to(device), fn.to(device), splits)
    assert_within_bounds(x[whole], fn, out[:, whole], sqrsum[:, whole])
    assert not sqrsum.sum(0)[spoiled].isfinite().any()
    assert not out.sum(0)[spoiled].isfinite().any()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("columns", [1, 8, 32])
def test_other_numbers_of_streams(device, columns):
    x, fn = made(20, 512, columns)
    assert_within_bounds(x, fn, *product(x.to(device), fn.to(device), 2))


@pytest.mark.usefixtures("kernel")
def test_splits_without_a_step_are_zero(device):
    x, fn = made(4, 256)
    out, sqrsum = product(x.to(device), fn.to(device), 9)
    empty = (sqrsum == 0).all(-1)
    assert empty[-1]
    assert (out[empty] == 0).all()


def test_no_tokens(device):
    out, sqrsum = torch.empty(2, 0, 24, device=device), torch.empty(2, 0, device=device)
    hc_prenorm_gemm(torch.empty(0, 64).bfloat16().to(device), torch.zeros(24, 64, device=device), out, sqrsum, 2)


def test_the_same_inputs_give_the_same_bits(device):
    x, fn = made(40, 1024)
    first, second = (product(x.to(device), fn.to(device), 3) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_splits_fill_the_device_and_no_more(monkeypatch):
    from dsa_kernels.mhc import interface

    monkeypatch.setattr(interface, "device_facts", lambda device: (80, 108))
    splits = {
        tokens: hc_prenorm_splits(tokens, 16_384, torch.device("cpu")) for tokens in (1, 64, 65, 512, 2048, 8192, 10**6)
    }
    assert splits == {1: 64, 64: 64, 65: 54, 512: 13, 2048: 3, 8192: 1, 10**6: 1}
    assert hc_prenorm_splits(1, 256, torch.device("cpu")) == 1


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("splits", [1, 2])
def test_long_splits_of_few_tokens_are_cut_into_parts(device, monkeypatch, splits):
    from dsa_kernels.mhc import interface

    parts = []
    join = interface.join_kernel

    class Recorder:
        def __getitem__(self, grid):
            def launch(*arguments, **constexprs):
                parts.append(arguments[6])
                return join[grid](*arguments, **constexprs)

            return launch

    monkeypatch.setattr(interface, "join_kernel", Recorder())
    monkeypatch.setattr(interface, "device_facts", lambda device: (80, 12))
    x, fn = made(5, 12_288)
    assert_within_bounds(x, fn, *product(x.to(device), fn.to(device), splits))
    assert parts == [12 // splits]
    x, fn = made(5, 6_136 * splits)
    product(x.to(device), fn.to(device), splits)
    assert len(parts) == 1


def test_the_warm_up_meets_every_tile_and_the_sums(device, monkeypatch):
    from dsa_kernels.mhc import interface

    seen = set()
    kernel_of, join = interface.kernel_of, interface.join_kernel

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*arguments, **constexprs):
                seen.add(constexprs["ROWS"])
                return self.kernel[grid](*arguments, **constexprs)

            return launch

    monkeypatch.setattr(interface, "kernel_of", lambda name: Recorder(kernel_of(name)))
    monkeypatch.setattr(interface, "join_kernel", Recorder(join))
    warmup_mhc(device)
    assert seen == {4, 16, 32, 64}


GOOD = {
    "x": torch.zeros(2, 64).bfloat16(),
    "fn": torch.zeros(24, 64),
    "out": torch.zeros(2, 2, 24),
    "sqrsum": torch.zeros(2, 2),
    "n_splits": 2,
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("x", {"x": torch.zeros(2, 64)}),
        ("x", {"x": torch.zeros(2, 60).bfloat16()}),
        ("x", {"x": torch.zeros(2, 128).bfloat16()[:, ::2]}),
        ("x", {"x": torch.zeros(2 * 64 + 1).bfloat16()[1:].view(2, 64)}),
        ("fn", {"fn": torch.zeros(24, 72)}),
        ("fn", {"fn": torch.zeros(33, 64)}),
        ("fn", {"fn": torch.zeros(24, 64).bfloat16()}),
        ("n_splits", {"n_splits": 0}),
        ("out", {"out": torch.zeros(3, 2, 24)}),
        ("out", {"out": torch.zeros(2, 24, 2).transpose(1, 2)}),
        ("sqrsum", {"sqrsum": torch.zeros(2, 3)}),
        ("sqrsum", {"sqrsum": torch.zeros(2, 2).double()}),
    ],
)
def test_what_is_outside_the_contract_is_named(name, changes):
    with pytest.raises(ArgumentError) as raised:
        hc_prenorm_gemm(**GOOD | changes)
    assert raised.value.name == name
