"""Compile a kernel variant for a target, and judge what came out."""

from __future__ import annotations

import importlib
import os
import pkgutil
from dataclasses import dataclass
from typing import Any

from dsa_kernels.aot import sass
from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.targets import shared_memory_limit

#: Indices, scales and weights may be loaded 4 or 8 bytes at a time, weights anew by many threads; what the rows take
#: must go 16 bytes at a time. Where rows do not, next to nothing does.
MINIMAL_WIDE_SHARE = 0.4

#: Environment under which Triton would not compile for the target it is asked for.
MISLEADING_ENVIRONMENT = ("TRITON_INTERPRET", "TRITON_OVERRIDE_ARCH")


@dataclass(frozen=True)
class CompiledReport:
    """One variant on one target.

    Attributes:
        variant: what was compiled.
        capability: target times ten, such as 80.
        registers: registers of a thread; 0 when it did not compile.
        spill_bytes: bytes of stack and local memory of a thread.
        shared_bytes: shared memory of a program.
        shared_limit: what the target allows.
        copies_ok: whether the loop's copies are as wide as the variant asks (True where it asks for nothing).
        ok: the verdict.
        reason: why not; empty when ok.
    """

    variant: KernelVariant
    capability: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    shared_limit: int
    copies_ok: bool
    ok: bool
    reason: str


def compile_variant(variant: KernelVariant, capability: int) -> CompiledReport:
    """Compile `variant` for `capability` (80 means 8.0) without a GPU and judge it.

    Never raises: whatever fails is a report with ok=False and the reason.
    """
    limit = shared_memory_limit(capability)
    try:
        return _compile(variant, capability, limit)
    except Exception as error:
        # Triton wraps what went wrong in an error that shows the source; the cause is the message.
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = f"does not compile: {type(error).__name__}: {lines[-1] if lines else ''}"
        return CompiledReport(variant, capability, 0, 0, 0, limit, False, False, reason)


def _compile(variant: KernelVariant, capability: int, limit: int) -> CompiledReport:
    for name in MISLEADING_ENVIRONMENT:
        if os.environ.get(name, "0") not in ("", "0"):
            raise RuntimeError(f"{name} is set: unset it to compile for a named target")
    import triton
    from triton.backends.compiler import GPUTarget

    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, "maxnreg": variant.maxnreg}
    if is_gluon(variant):
        del options["num_stages"]  # Gluon kernels are pipelined by hand
    compiled = triton.compile(source_of(variant), target=GPUTarget("cuda", capability, 32), options=options)
    cubin = compiled.asm["cubin"]
    resources = sass.read_resources(cubin)
    shared = int(compiled.metadata.shared)
    loads = sass.loop_loads(sass.disassemble(cubin)) if variant.wide_copies else None
    copies_ok = loads is None or (loads.narrowest >= 4 and loads.wide_share >= MINIMAL_WIDE_SHARE)
    faults = []
    if resources.stack_bytes:
        faults.append(f"spills {resources.stack_bytes} bytes a thread")
    if shared > limit:
        faults.append(f"needs {shared} bytes of shared memory, the target has {limit}")
    if loads is not None and not copies_ok:
        widths = ", ".join(f"{count} of {width} bytes" for width, count in loads.by_width) or "none found"
        faults.append(f"copies of the inner loop are not 16 bytes wide ({widths})")
    return CompiledReport(
        variant=variant,
        capability=capability,
        registers=resources.registers,
        spill_bytes=resources.stack_bytes,
        shared_bytes=shared,
        shared_limit=limit,
        copies_ok=copies_ok,
        ok=not faults,
        reason="; ".join(faults),
    )


def is_gluon(variant: KernelVariant) -> bool:
    """Whether the kernel is Gluon's, which is compiled from a source of its own kind."""
    return bool(getattr(variant.kernel, "is_gluon", bool)())


def source_of(variant: KernelVariant) -> Any:
    """Return what Triton compiles for a variant: an ASTSource.

    Raises:
        ValueError: where the signature does not name the kernel's arguments.
    """
    if is_gluon(variant):
        from triton.experimental.gluon._runtime import GluonASTSource as ASTSource
    else:
        from triton.compiler import ASTSource

    names = list(variant.kernel.arg_names)
    if set(names) != set(variant.signature):
        raise ValueError(f"the signature differs from the kernel's arguments by {set(names) ^ set(variant.signature)}")
    # In the order of the arguments: the order is part of Triton's cache key, and a set has another in each process.
    aligned = [position for position, name in enumerate(names) if name in variant.divisible_by_16]
    return ASTSource(
        fn=variant.kernel,
        signature={name: variant.signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in variant.constexprs.items()},
        attrs={(position,): [["tt.divisibility", 16]] for position in aligned},
    )


def all_variants(capability: int) -> list[KernelVariant]:
    """The default configurations of every op of the package on a target.

    An op package takes part by defining `variants(capability) -> list[KernelVariant]`.
    """
    import dsa_kernels

    found: list[KernelVariant] = []
    for module in pkgutil.iter_modules(dsa_kernels.__path__):
        if not module.ispkg or module.name == "aot":
            continue
        collect = getattr(importlib.import_module(f"dsa_kernels.{module.name}"), "variants", None)
        if callable(collect):
            found.extend(collect(capability))
    return found
