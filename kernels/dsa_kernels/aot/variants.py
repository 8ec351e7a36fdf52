"""One specialisation of one kernel, as data that the compiler can be given without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KernelVariant:
    """A kernel with everything that Triton would have learnt from the arguments of a launch.

    Attributes:
        op: public op that launches it, such as "sparse_mla_fwd".
        name: readable id of this specialisation, unique within the op.
        kernel: the Triton JITFunction.
        signature: every argument of the kernel -> "*bf16", "*u8", "i32", "i64", "fp32" … or "constexpr".
        constexprs: value of every argument that the signature calls "constexpr".
        divisible_by_16: arguments (pointers, strides) that Triton sees as multiples of 16.
        num_warps: warps of one program.
        num_stages: depth of Triton's software pipeline.
        wide_copies: whether the inner loop must move its data 16 bytes at a time.
        maxnreg: what the launch allows a thread, None for what the target has.
    """

    op: str
    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, object]
    divisible_by_16: frozenset[str]
    num_warps: int
    num_stages: int
    wide_copies: bool
    maxnreg: int | None = None
