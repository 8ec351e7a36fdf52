"""Rows of logits that some selector has been seen to get wrong, or might."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dsa_kernels.selftest.case import Place

INF = float("inf")


def from_bits(bits: torch.Tensor) -> torch.Tensor:
    """fp32 values of these bits."""
    return bits.to(torch.int32).view(torch.float32)


def noise(place: Place, rows: int, width: int) -> torch.Tensor:
    """Normally distributed."""
    return place.normal(place.generator(11), rows, width)


def narrow(place: Place, rows: int, width: int) -> torch.Tensor:
    """All within 1e-4 of 20: one bin of any histogram over the leading bits."""
    return 20 + noise(place, rows, width).clamp(-3, 3) * 3e-5


def all_equal(place: Place, rows: int, width: int) -> torch.Tensor:
    """One value."""
    return torch.full((rows, width), 0.625, device=place.device)


def one_bit_apart(place: Place, rows: int, width: int) -> torch.Tensor:
    """Neighbouring floats, each once."""
    keys = torch.rand((rows, width), generator=place.generator(12), device=place.device)
    return from_bits(0x3F800000 + keys.argsort(dim=1))


def two_values(place: Place, rows: int, width: int) -> torch.Tensor:
    """Two neighbouring floats."""
    larger = torch.nextafter(torch.tensor(1.5), torch.tensor(2.0)).item()
    return torch.where(noise(place, rows, width) > 0.5, larger, 1.5)


def crowded_bin(place: Place, rows: int, width: int) -> torch.Tensor:
    """A few large values, and nine tenths of the row in one narrow bin where the threshold falls."""
    values = noise(place, rows, width)
    crowded = 1 + values.abs().clamp(max=3) * 2e-5
    return torch.where(values > 2.5, values + 5, torch.where(values < -1.3, values, crowded))


def few_large(place: Place, rows: int, width: int) -> torch.Tensor:
    """150 candidates above a floor that all others share."""
    values = torch.full((rows, width), -5.0, device=place.device)
    some = noise(place, rows, width)
    at = some.argsort(dim=1)[:, :150]
    return values.scatter(1, at, some.gather(1, at).abs() + 1)


def every_exponent(place: Place, rows: int, width: int) -> torch.Tensor:
    """Random bits without NaN and infinities: every exponent, both signs, denormals."""
    bits = place.whole(place.generator(13), -(2**31), 2**31, rows, width)
    values = from_bits(bits)
    return torch.where(torch.isfinite(values), values, from_bits(bits & 0x7FFFFF))


def zeros(place: Place, rows: int, width: int) -> torch.Tensor:
    """0.0 and -0.0, which are equal."""
    return torch.where(noise(place, rows, width) > 0, 0.0, -0.0)


def ascending(place: Place, rows: int, width: int) -> torch.Tensor:
    """Rising along the row: what comes last is what is wanted."""
    return torch.arange(width, device=place.device).float().expand(rows, -1).clone()


#: Rows of finite values, by what they are.
FINITE: dict[str, Callable[[Place, int, int], torch.Tensor]] = {
    "random": noise,
    "narrow range": narrow,
    "all equal": all_equal,
    "one bit apart": one_bit_apart,
    "two values": two_values,
    "crowded bin": crowded_bin,
    "150 above a floor": few_large,
    "every exponent": every_exponent,
    "zeros of both signs": zeros,
    "ascending": ascending,
}
