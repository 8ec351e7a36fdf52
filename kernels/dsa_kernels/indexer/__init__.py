"""The lightning indexer: logits, selection, their references, the warm-up and the variants for ahead-of-time checks."""

from dsa_kernels.indexer.chunked import DEFAULT_BUDGET_BYTES, indexer_topk
from dsa_kernels.indexer.naive import naive_fp8_mqa_logits, naive_fp8_paged_mqa_logits, naive_topk_indices
from dsa_kernels.indexer.paged import fp8_paged_mqa_logits, row_lengths
from dsa_kernels.indexer.ragged import fp8_mqa_logits
from dsa_kernels.indexer.topk import topk_indices
from dsa_kernels.indexer.variants import variants
from dsa_kernels.indexer.warmup import warmup_indexer

__all__ = [
    "DEFAULT_BUDGET_BYTES",
    "fp8_mqa_logits",
    "fp8_paged_mqa_logits",
    "indexer_topk",
    "naive_fp8_mqa_logits",
    "naive_fp8_paged_mqa_logits",
    "naive_topk_indices",
    "row_lengths",
    "topk_indices",
    "variants",
    "warmup_indexer",
]
