"""Kernel tests run on the GPU where there is one, and under Triton's interpreter where there is none."""

import os

import pytest
import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    # Before anything imports triton: the decorator decides when a kernel is defined.
    os.environ["TRITON_INTERPRET"] = "1"


def _teach_interpreter_bf16() -> None:
    """Make the interpreter treat bf16 as a GPU does.

    It stores bf16 as uint16: its dot multiplies those integers, and its conversion from fp32 cuts instead of rounding
    to the nearest even number.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    create_dot = interpreter.InterpreterBuilder.create_dot
    convert_float = interpreter._convert_float

    def widen(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot_of_values(self, a, b, d, *rest):
        return create_dot(self, widen(a), widen(b), d, *rest)

    def convert_rounding(data, source, target, rounding_mode):
        if source != tl.float32 or target != tl.bfloat16:
            return convert_float(data, source, target, rounding_mode)
        values = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        return values.to(torch.bfloat16).view(torch.uint16).numpy()

    interpreter.InterpreterBuilder.create_dot = dot_of_values
    interpreter._convert_float = convert_rounding


if not ON_GPU:
    _teach_interpreter_bf16()


@pytest.fixture(scope="session")
def on_gpu() -> bool:
    """Whether the tests run on a GPU; full shapes then, small ones under the interpreter."""
    return ON_GPU


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tensors of kernel tests live."""
    return torch.device("cuda" if ON_GPU else "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if ON_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
