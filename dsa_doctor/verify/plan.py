"""What the self-test on a GPU consists of: groups of cases, the ops in them, and the finding that a failed op gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TestedOp:
    """An op of the self-test.

    Attributes:
        name: what --op takes.
        about: what it is, for people.
        finding: id that a failure gives.
    """

    name: str
    about: str
    finding: str


OPS = (
    TestedOp("sparse_mla", "sparse MLA attention, flat and paged", "DSA214"),
    TestedOp("indexer_logits", "the indexer's logits, flat and paged", "DSA309"),
    TestedOp("topk", "the selection", "DSA309"),
    TestedOp("indexer_topk", "logits and selection in chunks", "DSA309"),
    TestedOp("fp8", "fp8 conversion, the indexer's q and its cache write", "DSA309"),
    TestedOp("kpool", "pooled index keys: rotation, pools of prefill and of decode", "DSA309"),
    TestedOp("compressor", "DeepSeek-V4's compressor, and the rope of its output", "DSA214"),
    TestedOp("mhc", "the product before the norm of DeepSeek-V4's hyper-connections", "DSA214"),
    TestedOp("engram", "the lookup of DeepSeek-V4.1's engram", "DSA214"),
    TestedOp("wheel_topk", "the top-k ops of the installed vLLM", "DSA902"),
)

FINDING_OF = {op.name: op.finding for op in OPS}

#: Groups of `dsa_kernels.selftest`, each a process of its own, and the ops that they hold; what takes longest first.
GROUPS: dict[str, tuple[str, ...]] = {
    "far": ("sparse_mla", "indexer_logits", "topk", "fp8", "kpool", "mhc", "engram"),
    "mla-flat": ("sparse_mla",),
    "mla-paged": ("sparse_mla",),
    "mla-fp8": ("sparse_mla",),
    "mla-two": ("sparse_mla",),
    "mla-selections": ("sparse_mla",),
    "logits": ("indexer_logits", "indexer_topk"),
    "paged-logits": ("indexer_logits",),
    "topk": ("topk",),
    "wheel": ("wheel_topk",),
    "fp8": ("fp8",),
    "kpool": ("kpool",),
    "compressor": ("compressor",),
    "mhc": ("mhc",),
    "engram": ("engram",),
    "invariance": ("sparse_mla", "indexer_logits", "mhc"),
}


def groups_of(ops: tuple[str, ...]) -> tuple[str, ...]:
    """The groups that hold one of these ops; all groups for none.

    Raises:
        ValueError: for an op that is not known; the message names the known ones.
    """
    known = [op.name for op in OPS]
    for op in ops:
        if op not in known:
            raise ValueError(f"--op: got {op!r}, accepted: {', '.join(known)}")
    return tuple(group for group, held in GROUPS.items() if not ops or set(ops) & set(held))
