"""The public op for the indexer's logits over a flat key tensor, and the steps that the chunked op shares with it."""

from __future__ import annotations

from typing import Any

import torch

from dsa_kernels import gluon_support
from dsa_kernels.errors import (
    ArgumentError,
    expect,
    expect_aligned_rows,
    expect_contiguous_last,
    expect_same_device,
    expect_tensor,
)
from dsa_kernels.indexer.config import (
    CLEAN_BLOCK,
    HEAD_DIM,
    MAX_HEADS,
    WIDEN_BLOCK,
    padded_heads,
    rows_per_step,
)
from dsa_kernels.indexer.dispatch import LogitsConfig, ragged_config
from dsa_kernels.indexer.logits_kernels import clean_kernel, ragged_kernel, widen_kernel
from dsa_kernels.targets import device_facts

CODES = (torch.float8_e4m3fn, torch.uint8)


def fp8_mqa_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cu_seq_len_k_start: torch.Tensor,
    cu_seq_len_k_end: torch.Tensor,
    clean_logits: bool = True,
    max_seqlen_k: int = 0,
) -> torch.Tensor:
    """The lightning indexer's logits: logits[i, j] = k_scale[j] * Σ_h weights[i, h] * relu(q[i, h] · k[j]).

    Row i covers keys [start[i], end[i]), clamped to [0, N]. Products of e4m3 are exact, sums are fp32.

    Args:
        q: [M, H, 128] torch.float8_e4m3fn or uint8 (the same bytes), 1 to 128 heads, contiguous last dimension, rows on
            16-byte boundaries; its scale is folded into `weights`. M may be 0.
        kv: k [N, 128] torch.float8_e4m3fn or uint8, contiguous; k_scale [N] or [N, 1] fp32.
        weights: [M, H] fp32.
        cu_seq_len_k_start: [M] int32, inclusive.
        cu_seq_len_k_end: [M] int32, exclusive.
        clean_logits: write -inf to every element outside a row's keys; otherwise those elements are not written.
        max_seqlen_k: 0 for the full width. Otherwise the result is compressed: column c of row i is key start[i] + c,
            and a row's keys beyond max_seqlen_k are dropped.

    Returns:
        [M, N], or [M, max_seqlen_k] when max_seqlen_k > 0, fp32; the row stride is a multiple of 4.
        The codes 0x7f and 0xff, NaN, do not come out of quantisation; here they count as ±480.

    Raises:
        ArgumentError: a wrong shape, dtype, stride, alignment or device; the message names the argument.

    Nothing waits for the device, and allocations depend on shapes alone: safe under CUDA graph capture once
    `warmup_indexer` has compiled the kernels. M * H * 256 + N * 256 bytes of scratch hold q and k in fp16.

    Source: `fp8_mqa_logits` of DeepGEMM (github.com/deepseek-ai/DeepGEMM), which cleans full-width results only.
    """
    check_ragged(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end)
    expect(max_seqlen_k >= 0, "max_seqlen_k", max_seqlen_k, "0 (full width) or a positive width")
    width = max_seqlen_k or kv[0].shape[0]
    logits = empty_logits(q.shape[0], width, q.device)
    if logits.numel() == 0:
        return logits
    write_logits(q, widen_keys(kv[0]), kv[1], weights, cu_seq_len_k_start, cu_seq_len_k_end, logits, max_seqlen_k > 0)
    if clean_logits:
        starts, ends = cu_seq_len_k_start, cu_seq_len_k_end
        if max_seqlen_k:
            # Row i ends where its keys end: bounds outside [0, N] hold no keys.
            ends = ends.clamp(max=kv[0].shape[0]) - starts.clamp(min=0)
            starts = torch.zeros_like(starts)
        clean(logits, starts, ends)
    return logits


def check_ragged(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
) -> None:
    """Check what `fp8_mqa_logits` and `indexer_topk` take; errors as there."""
    expect_tensor("q", q, ["M", "H", HEAD_DIM], CODES)
    num_rows, num_heads = q.shape[0], q.shape[1]
    expect(1 <= num_heads <= MAX_HEADS, "q", f"{num_heads} heads", f"1 to {MAX_HEADS} heads")
    expect_contiguous_last("q", q)
    expect_aligned_rows("q", q)
    if not (isinstance(kv, (tuple, list)) and len(kv) == 2):
        raise ArgumentError("kv", type(kv).__name__, "a pair (k, k_scale)")
    k, scale = kv
    expect_tensor("kv[0]", k, ["N", HEAD_DIM], CODES)
    expect(k.is_contiguous(), "kv[0]", f"strides {k.stride()}", "a contiguous tensor")
    expect_aligned_rows("kv[0]", k)
    num_keys = k.shape[0]
    flat = scale.dim() == 1 or (scale.dim() == 2 and scale.shape[1] == 1)
    fits = flat and scale.shape[0] == num_keys and scale.dtype == torch.float32
    expect(fits, "kv[1]", f"shape {list(scale.shape)} of {scale.dtype}", f"[{num_keys}] or [{num_keys}, 1] of fp32")
    expect_tensor("weights", weights, [num_rows, num_heads], [torch.float32])
    expect_contiguous_last("weights", weights)
    expect_tensor("cu_seq_len_k_start", starts, [num_rows], [torch.int32])
    expect_tensor("cu_seq_len_k_end", ends, [num_rows], [torch.int32])
    tensors = {"kv[0]": k, "kv[1]": scale, "weights": weights, "cu_seq_len_k_start": starts, "cu_seq_len_k_end": ends}
    expect_same_device("q", q, **tensors)


def empty_logits(num_rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Unwritten logits [num_rows, width] fp32 whose rows start on 16 bytes."""
    padded = -(-width // 4) * 4
    return torch.empty((num_rows, padded), dtype=torch.float32, device=device)[:, :width]


def widen_keys(k: torch.Tensor) -> torch.Tensor:
    """Decode k [N, 128] to fp16, times 2^-8: done once for all rows and chunks."""
    return _widen(k.view(torch.uint8).unsqueeze(1), 1, 0)


def _widen(codes: torch.Tensor, padded: int, spare_rows: int) -> torch.Tensor:
    num_rows, num_heads = codes.shape[0], codes.shape[1]
    wide_rows = num_rows + spare_rows
    wide = torch.empty((wide_rows, padded, HEAD_DIM), dtype=torch.float16, device=codes.device)
    block = WIDEN_BLOCK // HEAD_DIM
    widen_kernel[(-(-wide_rows * padded // block),)](
        codes,
        wide,
        num_rows,
        wide_rows,
        codes.stride(0) // 16,
        codes.stride(1) // 16,
        HEADS=num_heads,
        PADDED=padded,
        HEAD_DIM=HEAD_DIM,
        BLOCK=block,
        num_warps=4,
    )
    return wide


def logits_kernel(config: LogitsConfig) -> tuple[Any, dict[str, object]]:
    """The kernel of a configuration, and the keywords that it alone takes."""
    if config.kernel == "mma":
        # Imported here: it exists only where Triton has Gluon.
        from dsa_kernels.indexer.gluon_ragged import ragged_mma_kernel

        return ragged_mma_kernel, {"STAGES": config.num_stages}
    return ragged_kernel, {"num_stages": config.num_stages}


def write_logits(
    q: torch.Tensor,
    wide_keys: torch.Tensor,
    k_scale: torch.Tensor,
    weights: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    logits: torch.Tensor,
    compressed: bool,
) -> None:
    """Write every logit inside the rows' bounds; arguments are checked, logits is [M, width] with M and width above 0.

    Args:
        q: [M, H, 128] codes.
        wide_keys: from `widen_keys`.
        k_scale: [N] or [N, 1] fp32.
        weights: [M, H] fp32.
        starts: [M] int32.
        ends: [M] int32.
        logits: written; columns are keys, or keys relative to `starts` when compressed.
        compressed: as said.
    """
    num_rows, num_heads = q.shape[0], q.shape[1]
    num_keys = wide_keys.shape[0]
    if num_keys == 0:
        return
    padded = padded_heads(num_heads)
    config = ragged_config(device_facts(q.device)[0], padded, gluon_support.USABLE)
    kernel, keywords = logits_kernel(config)
    rows = rows_per_step(config, padded)
    # The last step of a block may look past the last row: spare rows keep that inside the allocation.
    wide = _widen(q.view(torch.uint8), padded, rows - 1)
    kernel[(-(-num_keys // config.block_n), -(-num_rows // config.row_block))](
        wide,
        wide_keys,
        k_scale.reshape(-1).contiguous(),
        pad_weights(weights, padded),
        starts.contiguous(),
        ends.contiguous(),
        logits,
        num_rows,
        num_keys,
        logits.stride(0),
        logits.shape[1],
        PADDED=padded,
        HEAD_DIM=HEAD_DIM,
        ROWS=rows,
        ROW_BLOCK=config.row_block,
        BLOCK_N=config.block_n,
        COMPRESSED=compressed,
        num_warps=config.num_warps,
        maxnreg=config.maxnreg,
        **keywords,
    )


def pad_weights(weights: torch.Tensor, padded: int) -> torch.Tensor:
    """Weights as the kernel reads them, 16 bytes at a time: [M, H] -> [M, padded], dense, 0 beyond H.

    What a model passes is that already; anything else is copied.
    """
    num_heads = weights.shape[1]
    if num_heads == padded and weights.is_contiguous() and weights.data_ptr() % 16 == 0:
        return weights
    wider = torch.zeros((weights.shape[0], padded), dtype=torch.float32, device=weights.device)
    wider[:, :num_heads] = weights
    return wider


def clean(logits: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor) -> None:
    """Write -inf to the columns of each row outside [start, end)."""
    num_rows, width = logits.shape
    clean_kernel[(num_rows, -(-width // CLEAN_BLOCK))](
        logits,
        starts.contiguous(),
        ends.contiguous(),
        width,
        logits.stride(0),
        BLOCK=CLEAN_BLOCK,
        num_warps=4,
    )
