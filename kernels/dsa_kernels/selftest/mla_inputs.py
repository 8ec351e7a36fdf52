"""Inputs of the sparse MLA cases, made on the device, and the comparison with the reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from dsa_kernels import sparse_mla
from dsa_kernels.selftest.case import Outcome, Place
from dsa_kernels.selftest.compare import relative_error, worst

#: Rounding the output and the weights to bf16 alone gives about 2e-3 for each row.
OUT_LIMIT = 8e-3
LSE_LIMIT = 1e-5
PAGE = 64
_REFERENCE_TOKENS = 32


@dataclass(frozen=True)
class Inputs:
    """Arguments of the sparse MLA ops: `cache` is kv, or pages with `kv_format`; a second cache goes with pages."""

    q: torch.Tensor
    cache: torch.Tensor
    indices: torch.Tensor
    kv_format: str = ""
    sm_scale: float = 576**-0.5
    attn_sink: torch.Tensor | None = None
    topk_length: torch.Tensor | None = None
    extra_kv_cache: torch.Tensor | None = None
    extra_indices: torch.Tensor | None = None
    extra_topk_length: torch.Tensor | None = None

    def arguments(self) -> dict[str, object]:
        """As keywords of the op (the cache apart)."""
        given: dict[str, object] = {
            "q": self.q,
            "indices": self.indices,
            "sm_scale": self.sm_scale,
            "attn_sink": self.attn_sink,
            "topk_length": self.topk_length,
        }
        if self.kv_format:
            given["kv_format"] = self.kv_format
        if self.extra_kv_cache is not None:
            names = ("extra_kv_cache", "extra_indices", "extra_topk_length")
            given |= {name: getattr(self, name) for name in names}
        return given


def distinct_indices(place: Place, tokens: int, topk: int, rows: int, seed: int) -> torch.Tensor:
    """[tokens, 1, topk] int32, distinct within a token."""
    keys = torch.rand((tokens, rows), generator=place.generator(seed), device=place.device)
    return keys.topk(topk, dim=1).indices.to(torch.int32)[:, None, :].contiguous()


def flat(place: Place, tokens: int, heads: int, topk: int, rows: int, seed: int = 0) -> Inputs:
    """Random q and kv in bf16, every index valid."""
    generator = place.generator(seed)
    q = place.normal(generator, tokens, heads, 576).to(torch.bfloat16)
    kv = place.normal(generator, rows, 1, 576).to(torch.bfloat16)
    return Inputs(q, kv, distinct_indices(place, tokens, topk, rows, seed + 1))


def fp8_tokens(place: Place, count: int, seed: int) -> torch.Tensor:
    """[count, 656] uint8 fp8_ds_mla tokens, all 254 finite codes among them, scales from 2^-3 to 2^3."""
    generator = place.generator(seed)
    tokens = torch.empty((count, 656), dtype=torch.uint8, device=place.device)
    # fp32 to e4m3 by the reference, not by the ops that are tested.
    codes = place.normal(generator, count, 512).to(torch.float8_e4m3fn).view(torch.uint8)
    some = place.whole(generator, 0, 256, count, 512).to(torch.uint8)
    rare = torch.rand((count, 512), generator=generator, device=place.device) < 0.01
    tokens[:, :512] = torch.where(rare & ((some & 0x7F) < 0x78), some, codes)
    scales = torch.exp2(torch.rand((count, 4), generator=generator, device=place.device) * 6 - 3)
    tokens[:, 512:528] = scales.view(torch.uint8)
    tokens[:, 528:] = place.normal(generator, count, 64).to(torch.bfloat16).view(torch.uint8)
    return tokens


def paged(inputs: Inputs, kv_format: str, tokens: torch.Tensor, apart: bool) -> Inputs:
    """The rows `tokens` [rows, width] in pages; `apart` leaves a page of NaN between two."""
    pages = tokens.shape[0] // PAGE
    room = torch.empty((2 * pages, PAGE, 1, tokens.shape[1]), dtype=tokens.dtype, device=tokens.device)
    room.view(torch.uint8).fill_(0xFF)  # NaN in bf16, fp32 and e4m3
    cache = room[1::2] if apart else room[:pages]
    cache.copy_(tokens.view(pages, PAGE, 1, -1))
    return replace(inputs, cache=cache, kv_format=kv_format)


def attend(inputs: Inputs, **options: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Call the op that is tested: out, lse and, for a flat cache, max_logits. The output starts as NaN."""
    out = inputs.q.new_full((*inputs.q.shape[:2], 512), float("nan"))
    given: dict[str, Any] = {**inputs.arguments(), **options, "out": out}
    if inputs.kv_format:
        out, lse = sparse_mla.sparse_mla_with_kvcache(kv_cache=inputs.cache, **given)
        return out, lse, None
    out, max_logits, lse = sparse_mla.sparse_mla_fwd(kv=inputs.cache, **given)
    return out, lse, max_logits


def reference(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The same from the naive reference, in fp64; a few tokens at a time, since it expands every selection."""
    firsts = range(0, inputs.q.shape[0], _REFERENCE_TOKENS)
    parts = [_reference(some_tokens(inputs, slice(first, first + _REFERENCE_TOKENS))) for first in firsts]
    maxima = [part[2] for part in parts if part[2] is not None]
    out, lse = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return out, lse, torch.cat(maxima) if maxima else None


def some_tokens(inputs: Inputs, part: slice | torch.Tensor) -> Inputs:
    """The same for some of the tokens."""
    names = ("q", "indices", "topk_length", "extra_indices", "extra_topk_length")
    given = {name: getattr(inputs, name) for name in names}
    return replace(inputs, **{name: value[part] for name, value in given.items() if value is not None})


def _reference(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    if inputs.kv_format:
        return *sparse_mla.naive_sparse_mla_with_kvcache(kv_cache=inputs.cache, **inputs.arguments()), None  # type: ignore[arg-type]
    out, max_logits, lse = sparse_mla.naive_sparse_mla_fwd(kv=inputs.cache, **inputs.arguments())  # type: ignore[arg-type]
    return out, lse, max_logits


def judge(inputs: Inputs, known: Inputs | None = None) -> Outcome:
    """Run the op and compare with the reference on `known`, the same rows elsewhere (by default the inputs)."""
    out, lse, max_logits = attend(inputs)
    wanted_out, wanted_lse, wanted_max = reference(known or inputs)
    found = [relative_error("out", out, wanted_out, OUT_LIMIT), relative_error("lse", lse, wanted_lse, LSE_LIMIT)]
    if max_logits is not None and wanted_max is not None:
        found.append(relative_error("max_logits", max_logits, wanted_max, LSE_LIMIT))
    return worst(found)


def judge_all(several: Iterable[Inputs]) -> Outcome:
    """`judge` for each, and the worst of it."""
    return worst(judge(inputs) for inputs in several)
