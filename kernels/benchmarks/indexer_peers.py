"""Other implementations of the indexer's logits, measured in the same run; none of them is part of this project."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from dsa_kernels.bench import Peer, require_equal
from dsa_kernels.bench.case import Call
from dsa_kernels.bench.indexer_cases import PagedInputs, RaggedInputs
from dsa_kernels.indexer import fp8_mqa_logits, topk_indices

#: DeepGEMM's own tests allow 1e-6 of a squared measure, about this much of the norm.
PEER_LIMIT = 5e-3


def load_deep_gemm(folder: Path | None) -> Any | str:
    """DeepGEMM, installed or in `folder`, or why it is not there."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("deep_gemm")
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def deep_gemm_ragged(deep_gemm: Any, inputs: RaggedInputs) -> Peer:
    """DeepGEMM's `fp8_mqa_logits`, in fp8 products."""

    def call() -> torch.Tensor:
        kv = (inputs.k, inputs.scale)
        return deep_gemm.fp8_mqa_logits(inputs.q, kv, inputs.weights, inputs.starts, inputs.ends, clean_logits=False)

    return Peer([call], lambda: inputs.check_logits("DeepGEMM", call(), PEER_LIMIT))


def deep_gemm_paged(deep_gemm: Any, inputs: PagedInputs) -> Peer:
    """DeepGEMM's `fp8_paged_mqa_logits`, its schedule made beforehand.

    On compute capability 9.0 next_n 4 is worked on by clusters of two multiprocessors, and the schedule has an entry
    for each cluster: it must be made for half of the multiprocessors, or the call is refused.
    """
    clusters = 2 if torch.cuda.get_device_capability()[0] == 9 and inputs.q.shape[1] == 4 else 1
    schedules: list[torch.Tensor] = []

    def call(table: torch.Tensor) -> torch.Tensor:
        if not schedules:
            parts = deep_gemm.get_num_sms() // clusters
            schedules.append(deep_gemm.get_paged_mqa_logits_metadata(inputs.lengths, 64, parts))
        arguments = (inputs.q, inputs.cache, inputs.weights, inputs.lengths, table, schedules[0], inputs.width)
        return deep_gemm.fp8_paged_mqa_logits(*arguments, clean_logits=False)

    calls = [(lambda table=table: call(table)) for table in inputs.tables]
    return Peer(calls, lambda: inputs.check_logits("DeepGEMM", call(inputs.tables[0]), PEER_LIMIT))


def torch_ragged(inputs: RaggedInputs) -> Peer:
    """The plain formula in bf16 products, 64 query rows at a time; every element, no bounds."""

    def call() -> torch.Tensor:
        keys = inputs.k.to(torch.bfloat16).T
        parts = []
        for rows, heads in zip(inputs.q.split(64), inputs.weights.split(64), strict=True):
            scores = torch.relu(rows.to(torch.bfloat16) @ keys).float()  # [64, H, N]
            parts.append(torch.einsum("mhn,mh->mn", scores, heads) * inputs.scale)
        return torch.cat(parts)

    return Peer([call], lambda: inputs.check_logits("torch", call(), 1e-2))


def unchunked(inputs: RaggedInputs, topk: int, chunked: Call) -> Peer:
    """The two ops one after the other, over logits held whole: the same bits as in chunks, or no time."""

    def call() -> torch.Tensor:
        kv = (inputs.k, inputs.scale)
        logits = fp8_mqa_logits(inputs.q, kv, inputs.weights, inputs.starts, inputs.ends, clean_logits=False)
        return topk_indices(logits, inputs.starts, inputs.ends, topk)

    def check() -> float:
        wanted = chunked()
        assert isinstance(wanted, torch.Tensor)
        return require_equal("unchunked", call(), wanted)

    return Peer([call], check)
