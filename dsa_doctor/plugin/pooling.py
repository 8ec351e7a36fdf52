"""What stands in for the functions that pool index keys (GLM-5.3-Flash), each with the signature of what it replaces.

vLLM keeps orchestrating: which tokens form a pool, where its key goes and the cache of open pools are its own.
"""

import torch

from dsa_doctor.plugin import ops


def fwht128_quant_fp8(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Serve vLLM's function of the same name: rows [R, 128] rotated to e4m3 codes [R, 128] and scales [R, 1] fp32."""
    return ops.hadamard_quantize_fp8(q)


def kpool_compress_and_write_cache(
    kv_cache: torch.Tensor,
    slot_k: torch.Tensor,
    slot_score: torch.Tensor,
    ape: torch.Tensor,
    loc: torch.Tensor,
    pool_size: int,
    head_dim: int = 128,
    write_mask: torch.Tensor | None = None,
    round_scale: bool = True,
    return_compressed: bool = False,
    write_cache: bool = True,
) -> None:
    """Serve vLLM's function of the same name: pool, rotate and quantise the keys of a prefill into their slots.

    Raises:
        NotImplementedError: the keys were asked for as a result, or not to be written; vLLM's indexer does neither.
    """
    del pool_size, head_dim  # the tensors carry them
    if return_compressed or not write_cache:
        raise NotImplementedError("dsa-doctor pools index keys into the cache alone; they were asked for as a result")
    ops.kpool_compress_and_cache(kv_cache, slot_k, slot_score, ape, loc, write_mask, _scale_format(round_scale))


def kpool_decode_update_and_maybe_write_cache_batched(
    kv_cache: torch.Tensor,
    tail_kv_cache: torch.Tensor,
    tail_slot_mapping: torch.Tensor,
    key: torch.Tensor,
    slot_score: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    positions: torch.Tensor,
    pool_size: int,
    head_dim: int = 128,
    round_scale: bool = True,
) -> None:
    """Serve vLLM's function of the same name: keep each decoded token, and write the key of a pool that it ends."""
    del pool_size, head_dim
    ops.kpool_decode_update(
        kv_cache,
        tail_kv_cache,
        tail_slot_mapping,
        key,
        slot_score,
        ape,
        slot_mapping,
        positions,
        _scale_format(round_scale),
    )


def _scale_format(round_scale: bool) -> str:
    return "ue8m0" if round_scale else ""
