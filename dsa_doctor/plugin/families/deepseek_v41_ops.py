"""The functions that stand in for what vLLM's DeepSeek-V4.1 calls, each with the signature of what it replaces."""

from typing import Any

import torch

from dsa_doctor.plugin import ops


def indexer_k_norm_rope_store(
    k_pre: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    rms_norm_weight: torch.Tensor,
    rms_norm_eps: float,
    k_cache: torch.Tensor,
    kv_slot_mapping: torch.Tensor,
    compress_ratio: int,
    use_fp4_cache: bool,
) -> None:
    """Serve vLLM's function of the same name: index keys, normalised, rotated and stored in e4m3.

    Raises:
        NotImplementedError: the indexer's cache is fp4.
    """
    if use_fp4_cache:
        raise NotImplementedError("dsa-doctor stores fp8 index keys; serve with the default fp8 indexer cache")
    ops.index_key_norm_rope_store(
        k_pre, positions, rms_norm_weight, rms_norm_eps, cos_sin_cache, k_cache, kv_slot_mapping, compress_ratio
    )


def lookup(self: Any, indices: torch.Tensor, out: torch.Tensor, background: bool = False) -> None:
    """Serve `ParallelEngramEmbedding.lookup`: this rank's rows of its engram table, in bf16.

    Args:
        self: vLLM's module, which knows its table and its rank's part of it.
        indices: [T, hash columns] int32 or int64.
        out: [T, columns of this rank, width] bf16, written whole.
        background: leave most of the GPU to others.

    Raises:
        NotImplementedError: rows of other GPUs, or rows as they are stored, were asked for; vLLM does so on 10.x alone.
    """
    if getattr(self, "peer_rows", 0) or out.dtype is not torch.bfloat16:
        raise NotImplementedError(
            "dsa-doctor looks engram rows up in this rank's own table, in bf16; keep the tables in host memory "
            "(EngramConfig cpu_offload, the default)"
        )
    table, scales = self._storage()
    ops.engram_lookup(table, scales, indices, out, self.vocab_start_idx, self.head_start, background)
