"""Which kernels the package has, and which of them were launched."""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

import dsa_kernels


def all_kernels() -> set[str]:
    """Names of the package's kernels: its Triton functions that no other of its Triton functions calls.

    Of the Gluon kernels, each made for one architecture, only the one that this machine would run.
    """
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    from dsa_kernels import gluon_support
    from dsa_kernels.aot.compile import all_variants
    from dsa_kernels.targets import running_capability

    functions: dict[int, Any] = {}
    for module in pkgutil.walk_packages(dsa_kernels.__path__, "dsa_kernels."):
        if not module.name.endswith("__main__"):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, (JITFunction, InterpretedFunction)):
                    functions[id(value)] = value
    called = {id(callee) for function in functions.values() for callee in _mentioned(function)}
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    variants = all_variants(running_capability(here)) if gluon_support.USABLE else []
    chosen = {id(variant.kernel) for variant in variants}
    return {
        function.fn.__name__
        for key, function in functions.items()
        if key not in called and (key in chosen or not getattr(function, "is_gluon", bool)())
    }


def _mentioned(function: Any) -> Iterator[Any]:
    names = function.fn.__globals__
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function.fn)))):
        if isinstance(node, ast.Name) and node.id in names and names[node.id] is not function:
            yield names[node.id]


@contextlib.contextmanager
def counted_launches() -> Iterator[Counter[str]]:
    """Count the launches of Triton kernels by name, on a GPU as in Triton's interpreter."""
    from triton import knobs
    from triton.runtime.interpreter import GridExecutor

    launches: Counter[str] = Counter()
    call = GridExecutor.__call__

    def interpreted(executor: Any, *arguments: Any, **named: Any) -> Any:
        launches[executor.fn.__name__] += 1
        return call(executor, *arguments, **named)

    def launched(metadata: Any) -> None:
        launches[str(metadata.get()["name"])] += 1

    knobs.runtime.launch_enter_hook.add(launched)
    try:
        with mock.patch.object(GridExecutor, "__call__", interpreted):
            yield launches
    finally:
        knobs.runtime.launch_enter_hook.remove(launched)
