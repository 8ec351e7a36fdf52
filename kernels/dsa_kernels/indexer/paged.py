"""The public op for the indexer's logits over the paged cache."""

from __future__ import annotations

import torch
from triton.runtime import JITFunction

from dsa_kernels.errors import expect, expect_aligned_rows, expect_contiguous_last, expect_same_device, expect_tensor
from dsa_kernels.fp8.interface import check_indexer_cache
from dsa_kernels.indexer.config import (
    HEAD_DIM,
    MAX_HEADS,
    MOST_KEYS,
    dots_per_row,
    padded_heads,
    paged_registers,
    paged_steps,
    programs_per_request,
    resident_programs,
)
from dsa_kernels.indexer.dispatch import paged_config
from dsa_kernels.indexer.logits_kernels import paged_kernel
from dsa_kernels.indexer.ragged import CODES, clean, empty_logits, pad_weights
from dsa_kernels.targets import device_facts


def fp8_paged_mqa_logits(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    schedule_metadata: torch.Tensor | None = None,
    max_context_len: int = 0,
    clean_logits: bool = True,
    indices: torch.Tensor | None = None,
    batch_invariant: bool = False,
) -> torch.Tensor:
    """The lightning indexer's logits of a decode batch over the paged cache.

    For row t of request b: logits[b * next_n + t, j] = k_scale[j] * Σ_h weights[b * next_n + t, h] *
    relu(q[b, t, h] · k[j]), j a position of the request's context.

    Args:
        q: [B, next_n, H, 128] torch.float8_e4m3fn or uint8, next_n of 1 or more, 1 to 128 heads, contiguous last
            dimension, rows on 16-byte boundaries. B may be 0.
        kv_cache: [num_pages, page_size, 1, 132] or [num_pages, page_size, 132] uint8. The bytes of a page are
            page_size * 128 codes, token after token, then page_size fp32 scales. Pages are dense, lie a multiple of 16
            bytes apart, at least their size, and are addressed in 64 bits; page_size is a power of two.
        weights: [B * next_n, H] fp32.
        context_lens: int32. [B, next_n]: keys that each row sees. [B]: keys of the request with all its draft tokens;
            row t sees the first context_lens[b] - next_n + t + 1.
        block_tables: [B, W] int32, page of each page_size positions, contiguous last dimension; W may be too small for
            max_context_len or for a context. Positions without an entry, or whose entry is not a page, give -inf.
        schedule_metadata: DeepGEMM's schedule; accepted and ignored.
        max_context_len: columns of the result; contexts beyond it are cut.
        clean_logits: write -inf to every column that a row does not see; otherwise those are not written.
        indices: vLLM's request index of rows that share keys; accepted and ignored, since block_tables has a line
            for each row of q there.
        batch_invariant: a row's logits are the same bits whatever next_n it comes with. They never depend on other
            requests, nor on the GPU's size; but several rows of a request may share dots of another shape than one row
            alone. Costs reading the keys once for each row.

    Returns:
        [B * next_n, max_context_len] fp32; the row stride is a multiple of 4.

    Raises:
        ArgumentError: a wrong shape, dtype, stride, alignment or device; the message names the argument.

    Nothing waits for the device, and allocations depend on shapes alone: safe under CUDA graph capture once
    `warmup_indexer` has compiled the kernels.

    Source: `fp8_paged_mqa_logits` of DeepGEMM (github.com/deepseek-ai/DeepGEMM); `fp8_fp4_paged_mqa_logits` of vLLM.
    """
    del schedule_metadata, indices
    expect_tensor("q", q, ["B", "next_n", "H", HEAD_DIM], CODES)
    batch, next_n, num_heads = q.shape[0], q.shape[1], q.shape[2]
    expect(next_n >= 1, "q", f"next_n {next_n}", "next_n of at least 1")
    expect(1 <= num_heads <= MAX_HEADS, "q", f"{num_heads} heads", f"1 to {MAX_HEADS} heads")
    expect_contiguous_last("q", q)
    expect_aligned_rows("q", q)
    cache = check_indexer_cache(kv_cache)
    page_size = cache.shape[1]
    power = page_size >= 4 and page_size & (page_size - 1) == 0
    expect(power, "kv_cache", f"pages of {page_size} tokens", "a power of two of at least 4")
    expect_tensor("weights", weights, [batch * next_n, num_heads], [torch.float32])
    expect_contiguous_last("weights", weights)
    lengths = row_lengths(context_lens, batch, next_n)
    expect_tensor("block_tables", block_tables, [batch, "W"], [torch.int32])
    if block_tables.stride(-1) != 1:
        block_tables = block_tables.clone(memory_format=torch.contiguous_format)
    expect(max_context_len >= 0, "max_context_len", max_context_len, "a width of at least 0")
    tensors = {"kv_cache": kv_cache, "weights": weights, "context_lens": context_lens, "block_tables": block_tables}
    expect_same_device("q", q, **tensors)
    logits = empty_logits(batch * next_n, max_context_len, q.device)
    if logits.numel() == 0:
        return logits
    if batch_invariant and next_n > 1:
        # Every row is a request of its own: one compiled kernel serves them all.
        rows = (batch * next_n, 1, num_heads, HEAD_DIM)
        tables = block_tables[:, None].expand(-1, next_n, -1).reshape(batch * next_n, -1)
        _launch(q.reshape(rows), cache, weights, lengths, tables, logits)
    else:
        _launch(q, cache, weights, lengths, block_tables, logits)
    if clean_logits:
        clean(logits, torch.zeros_like(lengths), lengths)
    return logits


def row_lengths(context_lens: torch.Tensor, batch: int, next_n: int) -> torch.Tensor:
    """Keys that each query row of a decode batch sees.

    Args:
        context_lens: [B] or [B, next_n] int32, as `fp8_paged_mqa_logits` takes it.
        batch: B.
        next_n: query rows of a request.

    Returns:
        [B * next_n] int32, contiguous: also the row_ends that `topk_indices` needs for those logits. Lengths of rows
        before the context are negative.

    Raises:
        ArgumentError: another shape or dtype.
    """
    shape = list(context_lens.shape)
    fits = shape in ([batch], [batch, next_n]) and context_lens.dtype == torch.int32
    expect(fits, "context_lens", f"shape {shape} of {context_lens.dtype}", f"[{batch}] or [{batch}, {next_n}] of int32")
    if context_lens.dim() == 2 or next_n == 1:
        return context_lens.reshape(-1).contiguous()
    steps = torch.arange(1 - next_n, 1, dtype=torch.int32, device=context_lens.device)
    return (context_lens[:, None] + steps).reshape(-1)


def _launch(
    q: torch.Tensor,
    cache: torch.Tensor,
    weights: torch.Tensor,
    lengths: torch.Tensor,
    block_tables: torch.Tensor,
    logits: torch.Tensor,
) -> None:
    batch, next_n, num_heads = q.shape[0], q.shape[1], q.shape[2]
    num_pages, page_size, width = cache.shape[0], cache.shape[1], logits.shape[1]
    capability, multiprocessors = device_facts(q.device)
    padded = padded_heads(num_heads)
    config = paged_config(capability, padded, next_n)
    rows, steps = paged_steps(config, padded, next_n)
    blocks = -(-next_n // steps)
    num_tiles = -(-width // config.block_n)
    columns = steps * padded
    share = programs_per_request(batch * blocks, multiprocessors * resident_programs(capability, columns))
    most_tiles = MOST_KEYS // config.block_n
    programs = min(num_tiles, share * -(-num_tiles // (share * most_tiles)))
    if num_pages == 0:
        # The kernel reads page 0 in place of what is not a page.
        cache = torch.zeros((1, page_size, cache.shape[2]), dtype=torch.uint8, device=cache.device)
    pairs = q.view(torch.uint8).view(torch.int16)
    paged_kernel[(programs, batch, blocks)](
        pairs,
        cache.view(torch.int16),
        pad_weights(weights, padded),
        lengths,
        block_tables,
        logits,
        num_pages,
        cache.stride(0) // 16,
        block_tables.shape[1],
        block_tables.stride(0),
        pairs.stride(0) // 8,
        pairs.stride(1) // 8,
        pairs.stride(2) // 8,
        logits.stride(0),
        width,
        share,
        most_tiles,
        NEXT_N=next_n,
        STEPS=steps,
        ROWS=rows,
        PARTS=dots_per_row(config, padded),
        HEADS=num_heads,
        PADDED=padded,
        HEAD_DIM=HEAD_DIM,
        PAGE_SIZE=page_size,
        BLOCK_N=config.block_n,
        INLINE=isinstance(paged_kernel, JITFunction),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        maxnreg=paged_registers(capability, columns),
    )
