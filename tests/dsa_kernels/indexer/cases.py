"""Inputs and comparison for the tests of the indexer's logits."""

from __future__ import annotations

import torch

from dsa_kernels.fp8 import naive_indexer_k_quant_and_cache

POISON = 12345.0


def codes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Random e4m3 values, all finite codes among them."""
    values = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    values[(values & 0x7F) == 0x7F] = 0x30
    gaussian = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn).view(torch.uint8)
    return torch.where(torch.rand(shape, generator=generator) < 0.02, values, gaussian).view(torch.float8_e4m3fn)


def calc_diff(got: torch.Tensor, expected: torch.Tensor) -> float:
    """DeepGEMM's measure: 1 - 2<a, b> / (|a|² + |b|²), over what is not -inf; the -inf must coincide exactly."""
    empty = expected == float("-inf")
    assert torch.equal(got == float("-inf"), empty), "the -inf of result and reference differ"
    a, b = got.double().masked_fill(empty, 0), expected.double().masked_fill(empty, 0)
    assert torch.isfinite(a).all()
    scale = float((a * a + b * b).sum())
    return 0.0 if scale == 0 else 1 - 2 * float((a * b).sum()) / scale


def ragged_case(num_rows: int, num_heads: int, num_keys: int, bounds: str, device: torch.device, seed: int = 0):
    """q, kv, weights and the bounds of each row."""
    generator = torch.Generator().manual_seed(seed)
    q = codes(generator, num_rows, num_heads, 128)
    k = codes(generator, num_keys, 128)
    scale = torch.exp2(torch.randint(-6, 3, (num_keys,), generator=generator).float())
    weights = torch.randn(num_rows, num_heads, generator=generator)
    rows = torch.arange(num_rows)
    if bounds == "causal":
        starts, ends = torch.zeros(num_rows), num_keys - num_rows + 1 + rows
    elif bounds == "two requests":
        half = num_keys // 2 - 3
        second = rows >= num_rows // 2
        starts = torch.where(second, half, 0)
        ends = torch.where(second, half + 1 + (rows - num_rows // 2) * 7, 1 + rows * 5)
    elif bounds == "empty":
        starts = ends = rows * 3 % num_keys
    elif bounds == "outside":
        starts, ends = rows * 11 - 20, torch.where(rows % 2 == 0, num_keys + 50, rows - 5)
    else:
        starts = torch.randint(0, num_keys, (num_rows,), generator=generator)
        ends = starts + torch.randint(0, num_keys, (num_rows,), generator=generator)
    tensors = (q, k, scale, weights, starts.int(), ends.int())
    q, k, scale, weights, starts, ends = (tensor.to(device) for tensor in tensors)
    return q, (k, scale), weights, starts, ends


def paged_case(
    batch: int,
    next_n: int,
    num_heads: int,
    page_size: int,
    longest: int,
    device: torch.device,
    per_row: bool,
    gap: int = 0,
    seed: int = 0,
):
    """q, cache, weights, context lengths and block tables; pages in random order, unwritten bytes poisoned."""
    generator = torch.Generator().manual_seed(seed)
    table_width = -(-longest // page_size)
    num_pages = batch * table_width + 3
    storage = torch.full((num_pages, page_size * 132 + gap), 0xFF, dtype=torch.uint8)
    cache = storage[:, : page_size * 132].unflatten(1, (page_size, 132)).unsqueeze(2)
    order = torch.randperm(num_pages, generator=generator)[: batch * table_width]
    tables = order.reshape(batch, table_width).int()
    if per_row:
        lengths = torch.randint(0, longest + 1, (batch, next_n), generator=generator)
        lengths[-1] = longest
    else:
        lengths = torch.randint(next_n, longest + 1, (batch,), generator=generator)
        lengths[0] = next_n
    for request in range(batch):
        positions = torch.arange(int(lengths[request].max()))
        slots = tables[request].long()[positions // page_size] * page_size + positions % page_size
        k = torch.randn(len(positions), 128, generator=generator) * torch.exp2(
            torch.randn(len(positions), 1, generator=generator)
        )
        naive_indexer_k_quant_and_cache(k, cache.squeeze(2), slots)
    # Entries past a context are never pages.
    for request in range(batch):
        tables[request, -(-int(lengths[request].max()) // page_size) :] = 2**31 - 1
    q = codes(generator, batch, next_n, num_heads, 128)
    weights = torch.randn(batch * next_n, num_heads, generator=generator)
    cache = storage.to(device)[:, : page_size * 132].unflatten(1, (page_size, 132)).unsqueeze(2)
    return q.to(device), cache, weights.to(device), lengths.int().to(device), tables.to(device)
