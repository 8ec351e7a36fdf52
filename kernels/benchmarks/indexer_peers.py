"""Other implementations of the indexer's ops, measured in the same run; none of them is part of this project."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def torch_logits(q: torch.Tensor, k: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The plain formula in bf16 products, 64 query rows at a time; every element, no bounds."""
    keys = k.to(torch.bfloat16).T
    parts = []
    for rows, heads in zip(q.split(64), weights.split(64), strict=True):
        scores = torch.relu(rows.to(torch.bfloat16) @ keys).float()  # [64, H, N]
        parts.append(torch.einsum("mhn,mh->mn", scores, heads) * scale)
    return torch.cat(parts)


def load_deep_gemm(folder: Path | None) -> Any | str:
    """DeepGEMM, installed or in `folder`, or why it is not there."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("deep_gemm")
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def load_wheel_topk(library: Path | None) -> Callable[..., Any] | str:
    """VLLM's `top_k_per_row_decode`, from its compiled library or an installed vLLM, or why it is not there."""
    try:
        if library is not None:
            torch.ops.load_library(str(library))
        else:
            importlib.import_module("vllm._custom_ops")
        return torch.ops._C.top_k_per_row_decode
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
