"""Lets tests that ask for CUDA tensors run on a CPU, to try the runner itself where there is no GPU."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode


class _Redirect(TorchFunctionMode):  # type: ignore[misc]
    """Turns device="cuda" into device="cpu"."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if named.get("device") is not None:
            named["device"] = torch.device("cpu")
        return func(*args, **named)


@contextlib.contextmanager
def cuda_on_cpu() -> Iterator[None]:
    """Within it, factories give CPU tensors, .cuda() is the tensor itself, and the device says it is of sm90."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor))
        for name in ("synchronize", "empty_cache"):
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=None))
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)))
        stack.enter_context(_Redirect())
        yield
