"""Which of vLLM's Triton kernels were launched with which types, and the same kernels compiled for a GPU not there.

A child whose kernels are interpreted records them; a process of its own, with the real compiler, compiles them.
"""

import contextlib
import functools
import importlib
import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

from tests.dsa_doctor.plugin import layer_child

Launch = dict[str, Any]
"""A kernel's "module", "name", "types" by argument, "values" of constants by argument, and "warps"."""

_TYPES = {
    "torch.bfloat16": "bf16", "torch.float32": "fp32", "torch.int32": "i32", "torch.int64": "i64",
    "torch.uint8": "u8", "torch.int8": "i8", "torch.bool": "i1", "torch.float8_e4m3fn": "fp8e4nv",
}  # fmt: skip


class Launches:
    """Records launches of vLLM's kernels, one of each set of types."""

    def __init__(self) -> None:
        from triton.runtime.interpreter import InterpretedFunction

        self.found: dict[str, Launch] = {}
        self.without_running = False
        run = InterpretedFunction.run
        recorder = self

        @functools.wraps(run)
        def recorded(kernel: Any, *given: Any, grid: Any, warmup: Any, **named: Any) -> Any:
            if kernel.fn.__module__.startswith("vllm."):
                recorder.add(kernel, given, named)
                if recorder.without_running:
                    return None
            return run(kernel, *given, grid=grid, warmup=warmup, **named)

        InterpretedFunction.run = recorded

    @contextlib.contextmanager
    def only_recorded(self) -> Iterator[None]:
        """While entered, vLLM's kernels are recorded and not run."""
        self.without_running = True
        try:
            yield
        finally:
            self.without_running = False

    def beside(self, ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
        """Return `ours`, which records what `theirs` launches for the same arguments."""

        def both(*given: Any, **named: Any) -> Any:
            with self.only_recorded():
                theirs(*given, **named)
            return ours(*given, **named)

        return both

    def add(self, kernel: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Record one launch."""
        parameters = inspect.signature(kernel.fn).parameters
        values = {name: one.default for name, one in parameters.items() if one.default is not inspect.Parameter.empty}
        values |= dict(zip(parameters, given, strict=False)) | {
            name: named[name] for name in named if name in parameters
        }
        types, constants = {}, {}
        for name, parameter in parameters.items():
            value = values[name]
            types[name] = "constexpr" if "constexpr" in str(parameter.annotation) else _type_of(value)
            if types[name] == "constexpr":
                constants[name] = {"dtype": str(value)} if type(value).__name__ == "dtype" else value
        made = {
            "module": kernel.fn.__module__, "name": kernel.fn.__qualname__, "types": types, "values": constants,
            "warps": named.get("num_warps", 4),
        }  # fmt: skip
        self.found.setdefault(f"{made['module']} {made['name']} {sorted(types.items())}", made)


def _type_of(value: Any) -> str:
    if value is None:
        return "constexpr"
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32" if isinstance(value, float) else f"*{_TYPES[str(value.dtype)]}"


def compiled(request: dict[str, Any]) -> dict[str, Any]:
    """Return, by target and kernel, "" where it compiles, else what the compiler said."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    answers: dict[str, Any] = {}
    for target in request["targets"]:
        for launch in request["launches"]:
            kernel = operator.attrgetter(launch["name"])(importlib.import_module(launch["module"]))
            constants = {
                (kernel.arg_names.index(name),): getattr(tl, value["dtype"]) if isinstance(value, dict) else value
                for name, value in launch["values"].items()
            }
            source = ASTSource(kernel, launch["types"], constants)
            try:
                triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": launch["warps"]})
                said = ""
            except Exception as error:
                said = f"{type(error).__name__}: {error.__cause__ or error}"
            answers.setdefault(str(target), {}).setdefault(launch["name"], []).append(said)
    return answers


if __name__ == "__main__":
    layer_child.reply(compiled)
