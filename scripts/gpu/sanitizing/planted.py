"""One faulty kernel per tool: what a sanitizer must report, or its silence about our kernels means nothing."""

import torch
import triton
import triton.language as tl

SIZE = 128


@triton.jit
def planted_memcheck(out_ptr, SIZE: tl.constexpr):
    """Write behind the allocation."""
    offsets = tl.arange(0, SIZE)
    tl.store(out_ptr + 4096 + offsets, offsets)


@triton.jit
def planted_initcheck(out_ptr, SIZE: tl.constexpr):
    """Read what was never written."""
    offsets = tl.arange(0, SIZE)
    tl.store(out_ptr + offsets, tl.load(out_ptr + offsets) + 1)


@triton.jit
def planted_racecheck(out_ptr, SIZE: tl.constexpr):
    """Store another value from every thread to one word of shared memory, and load it without a barrier."""
    offsets = tl.arange(0, SIZE)
    raced = tl.inline_asm_elementwise(
        "{ .shared .align 4 .b32 word; st.volatile.shared.b32 [word], $1; ld.volatile.shared.b32 $0, [word]; }",
        "=r,r",
        [offsets],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
    tl.store(out_ptr + offsets, raced)


@triton.jit
def planted_synccheck(out_ptr, SIZE: tl.constexpr):
    """Bring only half of a warp to a barrier that is for whole warps."""
    offsets = tl.arange(0, SIZE)
    passed = tl.inline_asm_elementwise(
        "{ .reg .pred few; setp.lt.s32 few, $1, 16; @few bar.sync 0; mov.b32 $0, $1; }",
        "=r,r",
        [offsets],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
    tl.store(out_ptr + offsets, passed)


FAULTS = {
    "memcheck": planted_memcheck,
    "initcheck": planted_initcheck,
    "racecheck": planted_racecheck,
    "synccheck": planted_synccheck,
}


def run_fault(tool: str, device: torch.device) -> None:
    """Launch the fault that `tool` must report."""
    out = torch.empty(SIZE, dtype=torch.int32, device=device)
    FAULTS[tool][(1,)](out, SIZE=SIZE, num_warps=SIZE // 32)
