"""The ops of pooled index keys: checks of arguments, and launches."""

from __future__ import annotations

import torch

from dsa_kernels.errors import expect, expect_contiguous_last, expect_same_device, expect_tensor
from dsa_kernels.fp8.interface import FLOATS, INTEGERS, check_indexer_cache, check_scale_format
from dsa_kernels.kpool.config import BLOCK_POOLS, BLOCK_ROWS, DECODE_WARPS, HEAD_DIM, MAX_POOL, POOL_WARPS, ROW_WARPS
from dsa_kernels.kpool.kernels import compress_kernel, decode_kernel, rotate_quantize_kernel


def hadamard_quantize_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate rows by the normalised Hadamard matrix of 128, and quantise each with a power-of-two scale.

    Args:
        x: [R, 128] bf16, contiguous last dimension.

    Returns:
        codes: [R, 128] torch.float8_e4m3fn. The rotation is computed in fp32, then rounded to bf16, then quantised.
        scale: [R, 1] fp32, the smallest power of two that is at least max(max|row|, 1e-4) / 448.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `fwht128_quant_fp8` of vLLM (models/glm5next/nvidia/ops/kpool_compress.py), whose kernel needs Triton's
    fp8e4nv. The scale differs where that kernel's logarithm rounds: see `quantize_fp8_ue8m0`.
    """
    expect_tensor("x", x, ["R", HEAD_DIM], [torch.bfloat16])
    expect_contiguous_last("x", x)
    num_rows = x.shape[0]
    codes = torch.empty((num_rows, HEAD_DIM), dtype=torch.uint8, device=x.device)
    scale = torch.empty((num_rows, 1), dtype=torch.float32, device=x.device)
    if num_rows:
        rotate_quantize_kernel[(-(-num_rows // BLOCK_ROWS),)](
            x, codes, scale, num_rows, x.stride(0), BLOCK=BLOCK_ROWS, num_warps=ROW_WARPS
        )
    return codes.view(torch.float8_e4m3fn), scale


def kpool_compress_and_cache(
    kv_cache: torch.Tensor,
    key: torch.Tensor,
    gate: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    write_mask: torch.Tensor | None = None,
    scale_fmt: str = "ue8m0",
) -> None:
    """Pool the tokens of each pool into one index key, rotate and quantise it, and write it to the paged cache.

    Each of the 128 dimensions has a softmax of its own over the pool's tokens, of gate plus ape in fp32. The weighted
    sum is rounded to bf16, rotated (see `hadamard_quantize_fp8`), rounded to bf16 again, and quantised.

    Args:
        kv_cache: [num_pages, page_size, 132] or [num_pages, page_size, 1, 132] uint8, written in place; layout and
            strides as for `indexer_k_quant_and_cache`, a slot being a pool.
        key: [P, pool, 128] bf16, contiguous last dimension; pools may overlap in memory. Pools of 2 to 16 tokens.
        gate: [P, pool, 128] float, contiguous last dimension.
        ape: [pool, 128] fp32, contiguous: added to the gate by the token's place in its pool.
        slot_mapping: [P] int64 or int32; a pool with a negative slot is skipped. Slots are trusted to lie inside the
            cache; two pools must not share one.
        write_mask: [P] bool, False where a pool is skipped; None for none.
        scale_fmt: "ue8m0" rounds scales up to powers of two; "" leaves them as max|k| / 448.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `kpool_compress_and_write_cache` of vLLM (models/glm5next/nvidia/ops/kpool_compress.py).
    """
    expect_tensor("key", key, ["P", "pool", HEAD_DIM], [torch.bfloat16])
    num_pools, pool = key.shape[0], key.shape[1]
    _check_pool(ape, pool)
    expect_tensor("gate", gate, [num_pools, pool, HEAD_DIM], FLOATS)
    cache = check_indexer_cache(kv_cache)
    expect_tensor("slot_mapping", slot_mapping, [num_pools], INTEGERS)
    check_scale_format(scale_fmt)
    for name, tensor in (("key", key), ("gate", gate), ("slot_mapping", slot_mapping)):
        expect_contiguous_last(name, tensor)
    expect_same_device("key", key, gate=gate, ape=ape, kv_cache=kv_cache, slot_mapping=slot_mapping)
    if write_mask is not None:
        expect_tensor("write_mask", write_mask, [num_pools], [torch.bool])
        expect_contiguous_last("write_mask", write_mask)
        expect_same_device("key", key, write_mask=write_mask)
    if num_pools:
        compress_kernel[(-(-num_pools // BLOCK_POOLS),)](
            key,
            gate,
            ape,
            slot_mapping,
            slot_mapping if write_mask is None else write_mask.view(torch.uint8),
            cache,
            num_pools,
            key.stride(0),
            key.stride(1),
            gate.stride(0),
            gate.stride(1),
            cache.shape[1],
            cache.stride(0),
            POOL=pool,
            HAS_MASK=write_mask is not None,
            UE8M0=scale_fmt == "ue8m0",
            BLOCK=BLOCK_POOLS,
            num_warps=POOL_WARPS,
        )


def kpool_decode_update(
    kv_cache: torch.Tensor,
    tail_cache: torch.Tensor,
    tail_slot_mapping: torch.Tensor,
    key: torch.Tensor,
    gate: torch.Tensor,
    ape: torch.Tensor,
    slot_mapping: torch.Tensor,
    positions: torch.Tensor,
    scale_fmt: str = "ue8m0",
) -> None:
    """Decode: keep each token in its request's tail, and write a pooled key where a token completes a pool.

    The tokens of a request are taken in their order. A token at the last place of its pool (position % pool is
    pool - 1) whose slot is not negative is pooled with the pool - 1 tokens before it, which the tail holds, as in
    `kpool_compress_and_cache`. Then the token's key and gate go to row position % ring of the tail.

    Args:
        kv_cache: as for `kpool_compress_and_cache`.
        tail_cache: [num_blocks, 2, ring, 128] bf16, written in place: keys, then gates. Rows are contiguous; blocks and
            halves may lie apart. ring >= pool, so that a pool's tokens are still there when it is completed.
        tail_slot_mapping: [B, next_n] int: a token's request has block tail_slot // ring; negative for a padded token,
            which is skipped altogether.
        key: [B, next_n, 128] bf16, contiguous last dimension.
        gate: [B, next_n, 128] bf16, contiguous last dimension.
        ape: [pool, 128] fp32, contiguous.
        slot_mapping: [B, next_n] int, the slot of the pool that a token completes; negative for none.
        positions: [B, next_n] int, token positions, ascending within a request; negative for a padded token.
        scale_fmt: as for `kpool_compress_and_cache`.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `kpool_decode_update_and_maybe_write_cache_batched` of vLLM (models/glm5next/nvidia/ops/kpool_compress.py).
    """
    expect_tensor("key", key, ["B", "next_n", HEAD_DIM], [torch.bfloat16])
    batch, next_n = key.shape[0], key.shape[1]
    expect_tensor("gate", gate, [batch, next_n, HEAD_DIM], [torch.bfloat16])
    expect_tensor("tail_cache", tail_cache, ["num_blocks", 2, "ring", HEAD_DIM], [torch.bfloat16])
    pool, ring = ape.shape[0] if isinstance(ape, torch.Tensor) and ape.dim() else 0, tail_cache.shape[2]
    _check_pool(ape, pool)
    expect(ring >= pool, "tail_cache", f"a ring of {ring}", f"at least {pool}, the tokens of a pool")
    rows = tail_cache.stride(3) == 1 and (ring == 1 or tail_cache.stride(2) == HEAD_DIM)
    expect(rows, "tail_cache", f"strides {tail_cache.stride()}", "contiguous rows (blocks and halves may lie apart)")
    cache = check_indexer_cache(kv_cache)
    integers = {"tail_slot_mapping": tail_slot_mapping, "slot_mapping": slot_mapping, "positions": positions}
    for name, tensor in integers.items():
        expect_tensor(name, tensor, [batch, next_n], INTEGERS)
    check_scale_format(scale_fmt)
    expect_contiguous_last("key", key)
    expect_contiguous_last("gate", gate)
    expect_same_device("key", key, gate=gate, ape=ape, kv_cache=kv_cache, tail_cache=tail_cache, **integers)
    if batch and next_n:
        decode_kernel[(batch,)](
            key,
            gate,
            ape,
            slot_mapping.contiguous(),
            tail_slot_mapping.contiguous(),
            positions.contiguous(),
            tail_cache,
            cache,
            next_n,
            key.stride(0),
            key.stride(1),
            gate.stride(0),
            gate.stride(1),
            ring,
            tail_cache.stride(0),
            tail_cache.stride(1),
            cache.shape[1],
            cache.stride(0),
            POOL=pool,
            UE8M0=scale_fmt == "ue8m0",
            num_warps=DECODE_WARPS,
        )


def _check_pool(ape: torch.Tensor, pool: int) -> None:
    expect(2 <= pool <= MAX_POOL, "key", f"pools of {pool} tokens", f"pools of 2 to {MAX_POOL} tokens")
    expect_tensor("ape", ape, [pool, HEAD_DIM], [torch.float32])
    expect(ape.is_contiguous(), "ape", f"strides {ape.stride()}", "a contiguous tensor")
