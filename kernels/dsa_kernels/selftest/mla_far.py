"""Self-test of sparse MLA attention on caches larger than 2^31 bytes and 2^31 elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.mla_inputs import PAGE, Inputs, flat, fp8_tokens, judge


def far_rows(rows: int, row_bytes: int, elements: int) -> list[int]:
    """Rows around each place where a signed or unsigned 32-bit offset wraps, the first and the last row."""
    marks = {2**bits // size for bits in (31, 32) for size in (row_bytes, elements)}
    near = {row for mark in marks for row in (mark - 1, mark, mark + 1)} | {0, 1, rows - 1}
    return sorted(row for row in near if 0 <= row < rows)


def _far(kv_format: str) -> Callable[[Place], Outcome]:
    def run(place: Place) -> Outcome:
        # The small size has the same addresses: untouched memory costs nothing on the CPU.
        fp8 = kv_format == "fp8_ds_mla"
        width, dtype = (656, torch.uint8) if fp8 else (576, torch.bfloat16)
        limit = 2**32 + 2**20 if fp8 else 2**31 + 2**20  # elements
        pages = limit // (PAGE * width) + 2
        rows = pages * PAGE
        picked = far_rows(rows, width * dtype.itemsize, width)
        near = flat(place, 2, 16, len(picked), len(picked))
        tokens = fp8_tokens(place, len(picked), 5) if fp8 else near.cache[:, 0]
        small = tokens[:, None, None, :] if kv_format else tokens[:, None, :]
        known = Inputs(near.q, small, near.indices, kv_format)
        cache = torch.empty((pages, PAGE, 1, width), dtype=dtype, device=place.device)
        at = torch.tensor(picked, device=place.device)
        cache[at // PAGE, at % PAGE, 0] = tokens
        far = cache if kv_format else cache.view(rows, 1, width)
        indices = at.to(torch.int32)[near.indices.long()]
        return judge(replace(known, cache=far, indices=indices), known)

    return run


CASES = (
    Case("flat bf16 cache past 2^31", "sparse_mla", "row offsets in 32 bits", _far(""), gib=5),
    Case("paged bf16 cache past 2^31", "sparse_mla", "row offsets in 32 bits", _far("bf16"), gib=5),
    Case("fp8_ds_mla cache past 2^31", "sparse_mla", "row offsets in 32 bits", _far("fp8_ds_mla"), gib=5),
)
