"""From checked tensors to kernel launches."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from dsa_kernels.sparse_mla.config import LATENT_DIM, MAX_SPLITS, MERGE_COLUMNS, MERGE_PARTS, MERGE_WARPS
from dsa_kernels.sparse_mla.dispatch import TileConfig
from dsa_kernels.sparse_mla.kernels import attend_kernel, merge_kernel
from dsa_kernels.sparse_mla.plan import LaunchPlan

_LOG2_E = 1.4426950408889634

#: Most bytes of partial results. A plan that follows the batch stays far below; others take many tokens in turns.
_MOST_PARTIAL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class CacheView:
    """A cache as the kernel addresses it: three tensors over the same rows, and where a row starts.

    Attributes:
        latent: starts at the latent part (bf16, fp16, or int32 words of four fp8 codes).
        scales: starts at the fp32 scales of an fp8 token; the latent tensor itself otherwise.
        rope: starts at the rope part; the latent tensor itself where there is none.
        rope_dim: 64 or 0.
        fp8: whether rows are fp8_ds_mla tokens.
        num_rows: rows that an index may name.
        page_size: 0 when every row lies one row stride after the last, else rows of a page.
        page_stride: bytes from page to page (0 when page_size is 0).
        row_stride: bytes from row to row.
    """

    latent: torch.Tensor
    scales: torch.Tensor
    rope: torch.Tensor
    rope_dim: int
    fp8: bool
    num_rows: int
    page_size: int
    page_stride: int
    row_stride: int


@dataclass(frozen=True)
class Source:
    """A cache, and what each token selects from it.

    Attributes:
        cache: the rows.
        indices: [s_q, 1, topk] int32.
        topk_length: [s_q] int32, or None where every entry counts.
    """

    cache: CacheView
    indices: torch.Tensor
    topk_length: torch.Tensor | None

    @property
    def width(self) -> int:
        """Entries of a token's selection."""
        return self.indices.shape[2]

    def of_tokens(self, tokens: slice) -> Source:
        """What some of the tokens select."""
        lengths = None if self.topk_length is None else self.topk_length[tokens]
        return replace(self, indices=self.indices[tokens], topk_length=lengths)


def _sixteenths(tensor: torch.Tensor, dimension: int) -> int:
    return tensor.stride(dimension) * tensor.element_size() // 16


def attention_kernel(config: TileConfig, fp8: bool) -> tuple[Any, dict[str, object]]:
    """The kernel of a configuration, and the keywords that it alone takes."""
    if config.kernel == "triton":
        return attend_kernel, {"FP8": fp8, "num_stages": config.num_stages}
    # Imported here: Gluon kernels exist only where Triton has Gluon.
    module = importlib.import_module(f"dsa_kernels.sparse_mla.gluon_{config.kernel}")
    kernel = getattr(module, f"attend_{config.kernel}_kernel")
    return kernel, {"STAGES": config.num_stages, "CONVERT": config.convert, "FP8": fp8}


def _extra_arguments(extra: Source | None) -> tuple[Any, ...]:
    """What the kernels call extra; all None, which compiles nothing, without a second source."""
    if extra is None:
        return (None,) * 9
    lengths = extra.indices if extra.topk_length is None else extra.topk_length
    return (
        extra.cache.latent,
        extra.indices,
        lengths,
        extra.cache.num_rows,
        extra.width,
        int(extra.topk_length is not None),
        extra.cache.page_stride // 16,
        extra.cache.row_stride // 16,
        extra.indices.stride(0),
    )


def launch(
    q: torch.Tensor,
    source: Source,
    extra: Source | None,
    sm_scale: float,
    attn_sink: torch.Tensor | None,
    out: torch.Tensor,
    plan: LaunchPlan,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the plan; arguments are checked already.

    Every allocation depends on shapes and the plan alone, nothing waits for the device.

    Args:
        q: [s_q, h_q, LATENT + rope].
        source: rows and selections.
        extra: a second source of rows without a rope part; its cache and the first one's both name their pages.
        sm_scale: scale of the logits.
        attn_sink: [h_q] fp32 or None.
        out: [s_q, h_q, LATENT], written.
        plan: from `plan_launch`.

    Returns:
        max_logits and lse, [s_q, h_q] fp32.
    """
    num_tokens, num_heads = q.shape[0], q.shape[1]
    max_logits = torch.empty((num_tokens, num_heads), dtype=torch.float32, device=q.device)
    lse = torch.empty_like(max_logits)
    at_once = tokens_at_once(num_tokens, num_heads, plan.num_splits)
    if 0 < num_tokens <= at_once:
        _launch(q, source, extra, sm_scale, attn_sink, out, max_logits, lse, plan)
        return max_logits, lse
    for first in range(0, num_tokens, at_once):
        part = slice(first, min(first + at_once, num_tokens))
        selected = None if extra is None else extra.of_tokens(part)
        results = out[part], max_logits[part], lse[part]
        _launch(q[part], source.of_tokens(part), selected, sm_scale, attn_sink, *results, plan)
    return max_logits, lse


def tokens_at_once(num_tokens: int, num_heads: int, num_splits: int) -> int:
    """Tokens whose partial results fit the budget: all of them where selections are left whole, at least one."""
    if num_splits == 1:
        return max(1, num_tokens)
    return max(1, min(num_tokens, _MOST_PARTIAL_BYTES // (num_splits * num_heads * LATENT_DIM * 4)))


def _launch(
    q: torch.Tensor,
    source: Source,
    extra: Source | None,
    sm_scale: float,
    attn_sink: torch.Tensor | None,
    out: torch.Tensor,
    max_logits: torch.Tensor,
    lse: torch.Tensor,
    plan: LaunchPlan,
) -> None:
    num_tokens, num_heads = q.shape[0], q.shape[1]
    splits = plan.num_splits
    if splits > 1:
        partial = torch.empty((num_tokens, splits, num_heads, LATENT_DIM), dtype=torch.float32, device=q.device)
        partial_max = torch.empty((num_tokens, splits, num_heads), dtype=torch.float32, device=q.device)
        partial_sum = torch.empty_like(partial_max)
    else:
        # Never touched, but the compiled kernel is the same: same types, same alignment.
        partial = partial_max = partial_sum = max_logits
    sink = lse if attn_sink is None else attn_sink
    config, cache, indices, topk_length = plan.config, source.cache, source.indices, source.topk_length
    kernel, keywords = attention_kernel(config, cache.fp8)
    kernel[(num_tokens * splits * plan.num_head_blocks,)](
        q,
        cache.latent,
        cache.scales,
        cache.rope,
        indices,
        indices if topk_length is None else topk_length,
        sink,
        out,
        max_logits,
        lse,
        partial,
        partial_max,
        partial_sum,
        sm_scale * _LOG2_E,
        num_heads,
        plan.num_head_blocks,
        cache.num_rows,
        source.width,
        splits,
        int(topk_length is not None),
        int(attn_sink is not None),
        _sixteenths(q, 0),
        _sixteenths(q, 1),
        cache.page_stride // 16,
        cache.row_stride // 16,
        indices.stride(0),
        _sixteenths(out, 0),
        _sixteenths(out, 1),
        *_extra_arguments(extra),
        LATENT=LATENT_DIM,
        ROPE=cache.rope_dim,
        PAGE_SIZE=cache.page_size,
        EXTRA_PAGE_SIZE=extra.cache.page_size if extra else 0,
        BLOCK_H=config.block_h,
        BLOCK_N=config.block_n,
        num_warps=config.num_warps,
        **keywords,
    )
    if splits > 1:
        merge_kernel[(num_tokens * num_heads, LATENT_DIM // MERGE_COLUMNS)](
            partial,
            partial_max,
            partial_sum,
            sink,
            out,
            max_logits,
            lse,
            num_heads,
            splits,
            int(attn_sink is not None),
            _sixteenths(out, 0),
            _sixteenths(out, 1),
            LATENT=LATENT_DIM,
            BLOCK_D=MERGE_COLUMNS,
            BLOCK_S=MERGE_PARTS,
            MAX_SPLITS=MAX_SPLITS,
            num_warps=MERGE_WARPS,
            num_stages=2,
        )
