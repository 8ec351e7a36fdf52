"""Stands in for DeepGEMM's package: its indexer logits, computed by our ops; its utilities are the project's own.

What differs, and is bridged here:
- A schedule: ours needs none, and ignores the metadata.
- Compressed results: DeepGEMM cannot clean them (clean_logits must be False), ours can.
"""

from pkgutil import extend_path
from typing import Any

import routed
import torch

__path__ = extend_path(__path__, __name__)

__all__ = ["fp8_mqa_logits", "fp8_paged_mqa_logits", "get_num_sms", "get_paged_mqa_logits_metadata"]


def get_num_sms() -> int:
    """Multiprocessors of the device; 1 without one."""
    return torch.cuda.get_device_properties(0).multi_processor_count if torch.cuda.is_available() else 1


def get_paged_mqa_logits_metadata(context_lens: torch.Tensor, num_clusters: int) -> None:
    """No schedule."""
    del context_lens, num_clusters


def fp8_mqa_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cu_seq_len_k_start: torch.Tensor,
    cu_seq_len_k_end: torch.Tensor,
    clean_logits: bool = True,
    max_seqlen_k: int = 0,
) -> torch.Tensor:
    """Ragged logits, [M, N] or [M, max_seqlen_k] fp32."""
    if max_seqlen_k and clean_logits:
        raise ValueError("DeepGEMM takes max_seqlen_k with clean_logits=False only")
    return routed.fp8_mqa_logits(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits, max_seqlen_k)


def fp8_paged_mqa_logits(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    schedule_metadata: Any,
    max_context_len: int,
    clean_logits: bool = False,
) -> torch.Tensor:
    """Logits over the paged cache, [B * next_n, max_context_len] fp32."""
    del schedule_metadata
    return routed.fp8_paged_mqa_logits(q, kv_cache, weights, context_lens, block_tables, max_context_len, clean_logits)
