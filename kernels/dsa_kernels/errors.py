"""Argument checks of the public ops: each error names the argument, what came and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class ArgumentError(ValueError):
    """An argument of a public op is outside its contract."""

    def __init__(self, name: str, got: object, accepted: object) -> None:
        super().__init__(f"{name}: got {got}, accepted: {accepted}")
        self.name = name


def expect(condition: bool, name: str, got: object, accepted: object) -> None:
    """Raise `ArgumentError` unless `condition` holds."""
    if not condition:
        raise ArgumentError(name, got, accepted)


def expect_tensor(name: str, value: object, shape: Sequence[int | str], dtypes: Sequence[torch.dtype]) -> None:
    """Check that `value` is a tensor of that rank, those fixed sizes and one of those dtypes.

    Args:
        name: argument name for the message.
        value: what the caller passed.
        shape: one entry per dimension: an int that the size must equal, or the name of a free dimension.
        dtypes: accepted dtypes.
    """
    wanted = f"a tensor of shape [{', '.join(str(size) for size in shape)}]"
    if not isinstance(value, torch.Tensor):
        raise ArgumentError(name, type(value).__name__, wanted)
    sizes_match = value.dim() == len(shape) and all(
        isinstance(size, str) or got == size for got, size in zip(value.shape, shape, strict=True)
    )
    expect(sizes_match, name, f"shape {list(value.shape)}", wanted)
    expect(value.dtype in dtypes, name, f"dtype {value.dtype}", " or ".join(str(dtype) for dtype in dtypes))


def expect_same_device(reference_name: str, reference: torch.Tensor, **tensors: torch.Tensor | None) -> None:
    """Check that every tensor given lies on the device of `reference`."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != reference.device:
            raise ArgumentError(name, f"device {tensor.device}", f"{reference.device}, where {reference_name} lies")


def expect_contiguous_last(name: str, tensor: torch.Tensor) -> None:
    """Check that neighbours along the last dimension are neighbours in memory."""
    fits = tensor.numel() == 0 or tensor.shape[-1] == 1 or tensor.stride(-1) == 1
    expect(fits, name, f"strides {tensor.stride()}", "a last dimension of stride 1 (call .contiguous())")


def expect_aligned_rows(name: str, tensor: torch.Tensor, alignment: int = 16) -> None:
    """Check that the data and every stride but the last keep rows on `alignment` bytes, for wide copies."""
    accepted = f"data and row strides on multiples of {alignment} bytes"
    expect(
        tensor.data_ptr() % alignment == 0,
        name,
        f"data at an address {tensor.data_ptr() % alignment} bytes off",
        accepted,
    )
    for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True):
        step = stride * tensor.element_size()
        expect(size <= 1 or step % alignment == 0, name, f"a stride of {step} bytes", accepted)
