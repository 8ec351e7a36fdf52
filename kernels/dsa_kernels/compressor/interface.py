"""The ops of the compressor and of the output's rope: checks of arguments, and launches."""

from __future__ import annotations

from typing import Any

import torch

from dsa_kernels.compressor.config import INDEX_DIM, INDEX_WARPS, KEY_WARPS, MAX_RATIO, ROW_DIM, ROW_WARPS, rows_of_step
from dsa_kernels.compressor.kernels import compress_kernel, index_key_kernel, inverse_rope_kernel
from dsa_kernels.errors import expect, expect_contiguous_last, expect_same_device, expect_tensor
from dsa_kernels.fp8.interface import FLOATS, INTEGERS, check_indexer_cache


def compress_to_rows(
    state_cache: torch.Tensor,
    token_to_request: torch.Tensor,
    positions: torch.Tensor,
    state_slots: torch.Tensor,
    block_table: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
    overlap: bool,
) -> None:
    """Compress groups of tokens into bf16 rows of 512 and write them to a paged cache: DeepSeek-V4's KV compressor.

    Where a group of `ratio` tokens ends (position + 1 is a multiple of it), the states of its tokens, and with
    `overlap` those of the group before, are pooled: each of the 512 columns has a softmax of its own over the scores.
    The sum is normalised (RMS, in fp32), its last R columns are rotated by the angles of the group's first position,
    and the row is rounded to bf16. States before position 0 count for nothing.

    Args:
        state_cache: [P, block_size, 2 * c * 512] fp32, contiguous last dimension: a token's values, then its scores; c
            is 2 with overlap, else 1. With overlap the first 512 columns of both serve the group after the token's own,
            the last 512 its own.
        token_to_request: [T] int, row of block_table.
        positions: [T] int, of the tokens in their requests; a negative one is skipped.
        state_slots: [T] int, negative for padded tokens, which are skipped.
        block_table: [B, blocks] int, contiguous last dimension: blocks of state_cache.
        norm_weight: [512] float, contiguous.
        eps: added to the mean square.
        cos_sin_cache: [positions, R] float: cosines of R / 2 angles, then their sines; R even, at most 512.
        kv_cache: [num_pages, page_size, 512] bf16, written in place; rows are dense, pages may lie apart.
        slot_mapping: [T] int: a group's row goes to page slot // page_size, offset slot % page_size; negative for none.
            Slots are trusted to lie inside the cache; two tokens must not share one.
        ratio: tokens of a group: 1 to 1,024. DeepSeek-V4 has 4 with overlap and 128 without.
        overlap: whether the group before counts too.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `_fused_kv_compress_norm_rope_insert_sparse_attn` of vLLM (models/deepseek_v4/common/ops/
    fused_compress_quant_cache.py), with plain bf16 rows in place of its fp8 ones.
    """
    expect_tensor("kv_cache", kv_cache, ["num_pages", "page_size", ROW_DIM], [torch.bfloat16])
    dense = kv_cache.stride(2) == 1 and (kv_cache.shape[1] == 1 or kv_cache.stride(1) == ROW_DIM)
    expect(dense, "kv_cache", f"strides {kv_cache.stride()}", "dense rows (only the page stride is free)")
    _compress(
        state_cache,
        token_to_request,
        positions,
        state_slots,
        block_table,
        norm_weight,
        eps,
        cos_sin_cache,
        kv_cache,
        slot_mapping,
        ratio,
        overlap,
        width=ROW_DIM,
    )


def compress_to_index_keys(
    state_cache: torch.Tensor,
    token_to_request: torch.Tensor,
    positions: torch.Tensor,
    state_slots: torch.Tensor,
    block_table: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
    overlap: bool,
) -> None:
    """Compress groups of tokens into index keys of 128 and write them to the indexer's paged cache.

    As `compress_to_rows` with 128 in place of 512, but for the roundings: to bf16 after the norm and after the rope,
    then e4m3 with one power-of-two scale a key.

    Args:
        state_cache: [P, block_size, 2 * c * 128] fp32.
        token_to_request: as for `compress_to_rows`, like all others that are not named here.
        positions: as there.
        state_slots: as there.
        block_table: as there.
        norm_weight: [128] float, contiguous.
        eps: as there.
        cos_sin_cache: as there; R at most 128.
        kv_cache: [num_pages, page_size, 132] or [num_pages, page_size, 1, 132] uint8, as for
            `indexer_k_quant_and_cache`.
        slot_mapping: as there.
        ratio: as there.
        overlap: as there.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `_fused_kv_compress_norm_rope_insert_indexer_attn` of vLLM, in the same file, whose kernel needs Triton's
    fp8e4nv. The scale differs where that kernel's logarithm rounds: see `quantize_fp8_ue8m0`.
    """
    cache = check_indexer_cache(kv_cache)
    _compress(
        state_cache,
        token_to_request,
        positions,
        state_slots,
        block_table,
        norm_weight,
        eps,
        cos_sin_cache,
        cache,
        slot_mapping,
        ratio,
        overlap,
        width=INDEX_DIM,
    )


def index_key_norm_rope_store(
    k: torch.Tensor,
    positions: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
) -> None:
    """Normalise, rotate, quantise and store index keys that are there already: DeepSeek-V4.1's.

    What `compress_to_index_keys` does after pooling, with the same roundings: where a group of `ratio` tokens ends, its
    last token's row is the group's key. Other rows are not read.

    Args:
        k: [T or more, 128] bf16, contiguous last dimension: the projection of the compressor's latents.
        positions: [T or more] int, of the tokens in their requests; a negative one is skipped.
        norm_weight: [128] float, contiguous.
        eps: added to the mean square.
        cos_sin_cache: as for `compress_to_index_keys`.
        kv_cache: as there.
        slot_mapping: [T] int, as there; its length says how many tokens there are.
        ratio: tokens of a group: 1 to 1,024. DeepSeek-V4.1 has 1 and 2.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `indexer_k_norm_rope_store` of vLLM (models/deepseek_v41/common/ops/indexer_k_store.py), whose kernel needs
    Triton's fp8e4nv, with its fp8 cache. The scale differs where that kernel's logarithm rounds.
    """
    cache = check_indexer_cache(kv_cache)
    expect(1 <= ratio <= MAX_RATIO, "ratio", ratio, f"1 to {MAX_RATIO}")
    expect_tensor("slot_mapping", slot_mapping, ["T"], INTEGERS)
    tokens = slot_mapping.shape[0]
    expect_tensor("k", k, ["T", INDEX_DIM], [torch.bfloat16])
    expect_tensor("positions", positions, ["T"], INTEGERS)
    for name, tensor in (("k", k), ("positions", positions)):
        expect(tensor.shape[0] >= tokens, name, f"{tensor.shape[0]} rows", f"at least the {tokens} of slot_mapping")
    expect_tensor("norm_weight", norm_weight, [INDEX_DIM], FLOATS)
    _check_angles(cos_sin_cache, INDEX_DIM)
    given = {"k": k, "positions": positions, "norm_weight": norm_weight, "slot_mapping": slot_mapping}
    for name, tensor in given.items():
        expect_contiguous_last(name, tensor)
    expect_same_device("k", k, **given, cos_sin_cache=cos_sin_cache, kv_cache=cache)
    if not tokens:
        return
    index_key_kernel[(tokens,)](
        k,
        positions,
        norm_weight,
        cos_sin_cache,
        cache,
        slot_mapping,
        k.stride(0),
        cos_sin_cache.stride(0),
        cache.shape[1],
        cache.stride(0),
        eps,
        WIDTH=INDEX_DIM,
        ROPE=cos_sin_cache.shape[1],
        RATIO=ratio,
        num_warps=KEY_WARPS,
    )


def inverse_rope_grouped(
    o: torch.Tensor, positions: torch.Tensor, cos_sin_cache: torch.Tensor, num_groups: int
) -> torch.Tensor:
    """Rotate the attention's output back by its query's position, grouped for DeepSeek-V4's output projection.

    Args:
        o: [T, H, 512] bf16, any strides with a contiguous last dimension.
        positions: [T] int, of the query tokens.
        cos_sin_cache: [positions, R] float: cosines of R / 2 angles, then their sines; R even, at most 512. The last R
            of a head are neighbours that rotate by minus their angle.
        num_groups: G, a divisor of H.

    Returns:
        [G, T, H / G * 512] bf16, contiguous: what `torch.bmm` takes with the projection's [G, H / G * 512, rank].

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `fused_inv_rope_fp8_quant` of vLLM (models/deepseek_v4/common/ops/), without its quantisation.
    """
    expect_tensor("o", o, ["T", "H", ROW_DIM], [torch.bfloat16])
    tokens, heads = o.shape[0], o.shape[1]
    divides = num_groups > 0 and heads % num_groups == 0
    expect(divides, "num_groups", num_groups, f"a divisor of the {heads} heads")
    expect_tensor("positions", positions, [tokens], INTEGERS)
    _check_angles(cos_sin_cache, ROW_DIM)
    expect_contiguous_last("o", o)
    expect_contiguous_last("positions", positions)
    expect_same_device("o", o, positions=positions, cos_sin_cache=cos_sin_cache)
    group = heads // num_groups
    out = torch.empty((num_groups, tokens, group * ROW_DIM), dtype=torch.bfloat16, device=o.device)
    if out.numel():
        inverse_rope_kernel[(tokens, heads)](
            o,
            positions,
            cos_sin_cache,
            out,
            o.stride(0),
            o.stride(1),
            cos_sin_cache.stride(0),
            out.stride(0),
            GROUP=group,
            WIDTH=ROW_DIM,
            ROPE=cos_sin_cache.shape[1],
            num_warps=INDEX_WARPS,
        )
    return out


def _compress(
    state_cache: torch.Tensor,
    token_to_request: torch.Tensor,
    positions: torch.Tensor,
    state_slots: torch.Tensor,
    block_table: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    ratio: int,
    overlap: bool,
    *,
    width: int,
) -> None:
    expect(1 <= ratio <= MAX_RATIO, "ratio", ratio, f"1 to {MAX_RATIO}")
    parts = 2 if overlap else 1
    expect_tensor("state_cache", state_cache, ["P", "block_size", 2 * parts * width], [torch.float32])
    expect(state_cache.shape[1] > 0, "state_cache", f"shape {list(state_cache.shape)}", "blocks of at least one token")
    expect_tensor("positions", positions, ["T"], INTEGERS)
    tokens = positions.shape[0]
    vectors = {"token_to_request": token_to_request, "state_slots": state_slots, "slot_mapping": slot_mapping}
    for name, tensor in vectors.items():
        expect_tensor(name, tensor, [tokens], INTEGERS)
    expect_tensor("block_table", block_table, ["B", "blocks"], INTEGERS)
    expect_tensor("norm_weight", norm_weight, [width], FLOATS)
    _check_angles(cos_sin_cache, width)
    given: dict[str, Any] = {"state_cache": state_cache, "positions": positions, "block_table": block_table, **vectors}
    for name, tensor in (*given.items(), ("norm_weight", norm_weight)):
        expect_contiguous_last(name, tensor)
    others = {"norm_weight": norm_weight, "cos_sin_cache": cos_sin_cache, "kv_cache": cache}
    expect_same_device("state_cache", state_cache, **{**given, **others})
    if not tokens:
        return
    compress_kernel[(tokens,)](
        state_cache,
        token_to_request,
        positions,
        state_slots,
        block_table,
        norm_weight,
        cos_sin_cache,
        cache,
        slot_mapping,
        state_cache.shape[1],
        state_cache.stride(0),
        state_cache.stride(1),
        block_table.stride(0),
        cos_sin_cache.stride(0),
        cache.shape[1],
        cache.stride(0),
        eps,
        WIDTH=width,
        ROPE=cos_sin_cache.shape[1],
        RATIO=ratio,
        OVERLAP=overlap,
        STEP=rows_of_step(width, ratio * parts),
        INDEX=width == INDEX_DIM,
        num_warps=ROW_WARPS if width == ROW_DIM else INDEX_WARPS,
    )


def _check_angles(cos_sin_cache: torch.Tensor, width: int) -> None:
    expect_tensor("cos_sin_cache", cos_sin_cache, ["positions", "R"], FLOATS)
    rope = cos_sin_cache.shape[1]
    expect(0 < rope <= width and rope % 2 == 0, "cos_sin_cache", f"{rope} columns", f"an even number up to {width}")
    expect_contiguous_last("cos_sin_cache", cos_sin_cache)
