"""Other exact selections, measured in the same run; none of them is part of this project.

The wheel's ops are registered by `_C_stable_libtorch.abi3.so` (vLLM 0.26) in the namespace `_C`. It is taken from a
folder, where it may lie alone, or from an installed vLLM.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dsa_kernels.bench import Peer, require_equal
from dsa_kernels.bench.indexer_cases import CHECKED_ROWS, TopkInputs
from dsa_kernels.bench.inputs import spaced

LIBRARY = "_C_stable_libtorch.abi3.so"
WORKSPACE_BYTES = 1024 * 1024


def load_wheel_ops(folder: Path | None) -> Any | str:
    """The compiled ops of vLLM (`torch.ops._C`), or why they are not there."""
    try:
        if folder is not None:
            torch.ops.load_library(str(folder / LIBRARY))
        else:
            importlib.import_module("vllm._custom_ops")
        return torch.ops._C
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def torch_topk(inputs: TopkInputs) -> Peer:
    """torch.topk, values and positions."""
    topk = inputs.out.shape[1]
    calls = [(lambda logits=logits: logits.topk(topk, dim=1)) for logits in inputs.draws]
    return Peer(calls, lambda: 0.0)


def wheel_topk(wheel: Any | str, inputs: TopkInputs) -> dict[str, Peer | str]:
    """The three selections of the wheel that vLLM calls, with one query row a request."""
    names = ("top_k_per_row_decode", "top_k_per_row_prefill", "persistent_topk")
    if isinstance(wheel, str):
        return dict.fromkeys(names, wheel)
    out = torch.empty_like(inputs.out)
    rows, topk = out.shape
    starts = torch.zeros_like(inputs.ends)
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=out.device)

    def decode(logits: torch.Tensor) -> None:
        wheel.top_k_per_row_decode(logits, 1, inputs.ends, out, rows, logits.stride(0), logits.stride(1), topk)

    def prefill(logits: torch.Tensor) -> None:
        strides = logits.stride(0), logits.stride(1)
        wheel.top_k_per_row_prefill(logits, starts, inputs.ends, out, rows, *strides, topk)

    def persistent(logits: torch.Tensor) -> None:
        wheel.persistent_topk(logits, inputs.ends, out, workspace, topk, logits.shape[1])

    return {name: _peer(name, op, inputs, out) for name, op in zip(names, (decode, prefill, persistent), strict=True)}


def _peer(name: str, op: Callable[[torch.Tensor], None], inputs: TopkInputs, out: torch.Tensor) -> Peer:
    def check() -> float:
        out.fill_(-2)
        op(inputs.draws[0])
        rows = spaced(out.shape[0], CHECKED_ROWS)
        # Values, not positions: ties are the op's own affair.
        got = inputs.draws[0][rows].gather(1, out[rows].long().clamp(min=0)).sort(dim=1, descending=True).values
        return require_equal(name, got, inputs.draws[0][rows].topk(out.shape[1], dim=1).values)

    return Peer([(lambda logits=logits: op(logits)) for logits in inputs.draws], check)
