"""Kernel tests run on the GPU where there is one, and under Triton's interpreter where there is none."""

import os
from typing import ClassVar

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


def _quicken_interpreter() -> None:
    """Make the interpreter put its functions in the place of the language's once a launch.

    It looks for what to replace again at every device function that a kernel calls, two thirds of the time of some
    tests, and never takes back what it replaced then. It also builds the table of numpy's dtypes anew for each value.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    patch_lang, np_dtype_of = interpreter._patch_lang, interpreter._get_np_dtype
    in_force = False
    np_dtypes = {}

    class Both:
        """Sees the language by both of its modules: the one of kernels, and the one of Triton's own functions."""

        __globals__: ClassVar = {"tl": tl, "core": tl.core}

    class Scope(interpreter._LangPatchScope):
        def restore(self) -> None:
            nonlocal in_force
            in_force = False
            super().restore()

    def patch_what_is_not(fn):
        nonlocal in_force
        if in_force:
            return interpreter._LangPatchScope()
        scope = Scope()
        scope._changes = patch_lang(Both)._changes
        in_force = True
        return scope

    def remembered(dtype):
        name = dtype.scalar.name
        if name not in np_dtypes:
            np_dtypes[name] = np_dtype_of(dtype.scalar)
        return np_dtypes[name]

    interpreter._patch_lang, interpreter._get_np_dtype = patch_what_is_not, remembered


if not ON_GPU:
    _teach_interpreter_bf16()
    _quicken_interpreter()


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
