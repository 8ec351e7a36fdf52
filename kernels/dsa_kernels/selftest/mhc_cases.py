"""Self-test of mHC's pre-norm product."""

from __future__ import annotations

import torch

from dsa_kernels import mhc
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import require, worst

COLUMNS = 24
OUT_LIMIT, SQUARES_LIMIT = 2.0**-14, 2.0**-16
_POISON = 7.0


def operands(place: Place, tokens: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [tokens, k] bf16 and a matrix [24, k] fp32."""
    x = place.normal(place.generator(1), tokens, k).bfloat16()
    return x, place.normal(place.generator(2), COLUMNS, k) / k**0.5


def _product(x: torch.Tensor, fn: torch.Tensor, splits: int) -> tuple[torch.Tensor, torch.Tensor, Outcome]:
    """The sums over the splits in fp64, and whether nothing behind the last split was written."""
    out = torch.full((splits + 1, x.shape[0], fn.shape[0]), _POISON, device=x.device)
    sqrsum = torch.full((splits + 1, x.shape[0]), _POISON, device=x.device)
    mhc.hc_prenorm_gemm(x, fn, out[:splits], sqrsum[:splits], splits)
    kept = bool((out[splits] == _POISON).all()) and bool((sqrsum[splits] == _POISON).all())
    untouched = require(kept, "what lies behind the last split untouched", "a value changed there")
    return out[:splits].double().sum(0), sqrsum[:splits].double().sum(0), untouched


def _share(name: str, got: torch.Tensor, wanted: torch.Tensor, magnitude: torch.Tensor, limit: float) -> Outcome:
    """The worst |got - wanted| as a share of the magnitudes that were added up."""
    errors = (got - wanted).abs() / magnitude
    error = float(errors.nan_to_num(nan=float("inf")).max())
    if error <= limit:
        return Outcome(True, error, limit)
    at = int(errors.nan_to_num(nan=float("inf")).reshape(-1).argmax())
    return Outcome(
        False, error, limit, f"{name} element {at} = {float(wanted.reshape(-1)[at]):.6g}", f"{got.reshape(-1)[at]:.6g}"
    )


def _judge(x: torch.Tensor, fn: torch.Tensor, splits: int) -> Outcome:
    out, sqrsum, untouched = _product(x, fn, splits)
    wanted, squares = mhc.naive_hc_prenorm(x, fn)
    magnitude = x.double().abs() @ fn.double().abs().T
    return worst(
        (
            untouched,
            _share("product", out, wanted, magnitude, OUT_LIMIT),
            _share("sum of squares", sqrsum, squares, squares, SQUARES_LIMIT),
        )
    )


def _prefill(place: Place) -> Outcome:
    return _judge(*operands(place, place.pick(8192, 70), place.pick(16_384, 512)), splits=1)


def _decode(place: Place) -> Outcome:
    return worst(
        _judge(*operands(place, tokens, k), splits)
        for tokens in (1, 8, 17, place.pick(100, 33))
        for k, splits in ((place.pick(28_672, 512), place.pick(16, 3)), (place.pick(4096, 256), place.pick(64, 5)))
    )


def _one_sign(place: Place) -> Outcome:
    """Bits of the matrix that tf32 or one bf16 number would lose, all with the same sign."""
    k = place.pick(20_480, 512)
    outcomes = []
    for bits in (0x3F800FFF, 0x3F807FFF, 0x3FFFFFFF):
        fn = torch.full((COLUMNS, k), bits, dtype=torch.int32, device=place.device).view(torch.float32)
        outcomes.append(_judge(torch.ones(40, k, device=place.device).bfloat16(), fn, splits=1))
    return worst(outcomes)


def _spoiled(place: Place) -> Outcome:
    """Tokens with NaN among others."""
    x, fn = operands(place, 70, place.pick(4096, 256))
    spoiled = torch.zeros(70, dtype=torch.bool, device=place.device)
    spoiled[torch.tensor([0, 16, 69])] = True
    x[spoiled] = float("nan")
    out, sqrsum, untouched = _product(x, fn, 2)
    wanted, squares = mhc.naive_hc_prenorm(x[~spoiled], fn)
    magnitude = x[~spoiled].double().abs() @ fn.double().abs().T
    marked = bool(out[spoiled].isnan().all()) and bool(sqrsum[spoiled].isnan().all())
    return worst(
        (
            untouched,
            require(marked, "NaN for tokens with NaN", "a number"),
            _share("product", out[~spoiled], wanted, magnitude, OUT_LIMIT),
            _share("sum of squares", sqrsum[~spoiled], squares, squares, SQUARES_LIMIT),
        )
    )


def _far(place: Place) -> Outcome:
    """Rows of x past 2^31 elements, all of which the op reads: small, it is one case more of zero tokens."""
    k = place.pick(28_672, 256)
    tokens = place.pick(2**31 // k + 65, 130)
    x = torch.zeros((tokens, k), dtype=torch.bfloat16, device=place.device)
    fn = operands(place, 1, k)[1]
    x[-64:] = place.normal(place.generator(3), 64, k).bfloat16()
    out, sqrsum, untouched = _product(x, fn, 1)
    empty = require(not bool(out[:-64].any()) and not bool(sqrsum[:-64].any()), "zeros for zero tokens", "a number")
    wanted, squares = mhc.naive_hc_prenorm(x[-64:], fn)
    magnitude = x[-64:].double().abs() @ fn.double().abs().T
    return worst(
        (
            untouched,
            empty,
            _share("product", out[-64:], wanted, magnitude, OUT_LIMIT),
            _share("sum of squares", sqrsum[-64:], squares, squares, SQUARES_LIMIT),
        )
    )


CASES = (
    Case("products of a prefill", "mhc", "a tile cut off, a split lost", _prefill),
    Case("products of few tokens", "mhc", "splits without a step not zero, a ragged tile", _decode),
    Case("products of one sign", "mhc", "low bits of the matrix lost", _one_sign),
    Case("tokens with NaN", "mhc", "one token spoils others", _spoiled),
)

FAR_CASES = (Case("tokens past 2^31", "mhc", "row offsets in 32 bits", _far, gib=12),)
