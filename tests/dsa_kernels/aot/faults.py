"""Kernels with a known fault each, compiled in a child process without the interpreter: prints reports as JSON."""

import json
import sys

import triton
import triton.language as tl

from dsa_kernels.aot import KernelVariant, compile_variant


@triton.jit
def copy_rows(source, target, count, stride, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    for row in range(count):
        total += tl.load(source + row * stride + tl.arange(0, BLOCK)).to(tl.float32)
    tl.store(target + tl.arange(0, BLOCK), total)


@triton.jit
def product(a, b, c, SIDE: tl.constexpr):
    rows = tl.arange(0, SIDE)
    at = rows[:, None] * SIDE + rows[None, :]
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@triton.jit
def float8(source, target):
    tl.store(target, tl.load(source).to(tl.float32))


def variant(name, kernel, types, constexprs=None, aligned=(), num_warps=4, wide=False, registers=None):
    constexprs = constexprs or {}
    signature = dict(types) | dict.fromkeys(constexprs, "constexpr")
    return KernelVariant("test", name, kernel, signature, constexprs, frozenset(aligned), num_warps, 2, wide, registers)


ROWS = {"source": "*bf16", "target": "*fp32", "count": "i32", "stride": "i32"}
SQUARE = {"a": "*bf16", "b": "*bf16", "c": "*fp32"}
VARIANTS = [
    variant("aligned", copy_rows, ROWS, {"BLOCK": 1024}, ("source", "stride"), wide=True),
    variant("not aligned", copy_rows, ROWS, {"BLOCK": 1024}, wide=True),
    variant("narrow but nobody asked", copy_rows, ROWS, {"BLOCK": 1024}),
    variant("too large", product, SQUARE, {"SIDE": 256}, SQUARE, num_warps=16),  # 4 take ptxas 20 s
    variant("four warps", product, SQUARE, {"SIDE": 64}, SQUARE),
    variant("few registers", product, SQUARE, {"SIDE": 64}, SQUARE, registers=32),
    variant("one warp", product, SQUARE, {"SIDE": 128}, SQUARE, num_warps=1),
    variant("float8", float8, {"source": "*fp8e4nv", "target": "*fp32"}),
    variant("wrong signature", float8, {"source": "*fp16"}),
]

reports = [compile_variant(one, 80) for one in VARIANTS]
sys.stdout.write(
    json.dumps(
        {
            report.variant.name: {
                "ok": report.ok,
                "reason": report.reason,
                "spill_bytes": report.spill_bytes,
                "shared_bytes": report.shared_bytes,
                "registers": report.registers,
            }
            for report in reports
        }
    )
    + "\n"
)
