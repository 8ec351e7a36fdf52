"""All cases, in the groups that share a process."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_kernels.selftest import (
    compressor_cases,
    engram_cases,
    fp8_cases,
    invariance_cases,
    kpool_cases,
    logits_cases,
    mhc_cases,
    mla_cases,
    mla_far,
    mla_two_cases,
    paged_cases,
    topk_cases,
    wheel_cases,
)
from dsa_kernels.selftest.case import Case

#: What can be chosen, and what it is.
OPS = {
    "sparse_mla": "sparse MLA attention, flat and paged",
    "indexer_logits": "the indexer's logits, flat and paged",
    "topk": "the selection",
    "indexer_topk": "logits and selection in chunks",
    "fp8": "fp8 conversion, the indexer's q and its cache write",
    "kpool": "pooled index keys: rotation, pools of prefill and of decode",
    "compressor": "DeepSeek-V4's compressor, and the rope of its output",
    "mhc": "the product before the norm of DeepSeek-V4's hyper-connections",
    "engram": "the lookup of DeepSeek-V4.1's engram",
    "wheel_topk": "the top-k ops of the installed vLLM",
}


@dataclass(frozen=True)
class Group:
    """Cases that run one after the other in one process.

    Attributes:
        name: short, unique.
        cases: in order.
        gated: whether the others are of no use unless the first one passes.
    """

    name: str
    cases: tuple[Case, ...]
    gated: bool = False


def _mla(part: str) -> tuple[Case, ...]:
    return tuple(case for case in mla_cases.SHAPED if case.name.startswith(part))


_FAR = (
    *mla_far.CASES,
    *mla_two_cases.FAR_CASES,
    *paged_cases.FAR_CASES,
    *topk_cases.FAR_CASES,
    *fp8_cases.FAR_CASES,
    *logits_cases.FAR_CASES,
    *kpool_cases.FAR_CASES,
    *mhc_cases.FAR_CASES,
    *engram_cases.FAR_CASES,
)

#: Longest first. Cases that need much memory share a process, so that only one of them holds it.
GROUPS = (
    Group("far", _FAR),
    Group("mla-flat", _mla("flat bf16")),
    Group("mla-paged", _mla("paged bf16")),
    Group("mla-fp8", _mla("paged fp8")),
    Group("mla-selections", mla_cases.SELECTIONS),
    Group("mla-two", mla_two_cases.CASES),
    Group("logits", logits_cases.CASES),
    Group("paged-logits", paged_cases.CASES),
    Group("topk", topk_cases.CASES),
    Group("wheel", wheel_cases.CASES, gated=True),
    Group("fp8", fp8_cases.CASES),
    Group("kpool", kpool_cases.CASES),
    Group("compressor", compressor_cases.CASES),
    Group("mhc", mhc_cases.CASES),
    Group("engram", engram_cases.CASES),
    Group("invariance", invariance_cases.CASES),
)
