"""Random inputs for benchmarks, made on the device in parts so that no large fp32 copy exists."""

from __future__ import annotations

import torch

PAGE_SIZE = 64


def random_codes(*shape: int, device: torch.device | str = "cuda") -> torch.Tensor:
    """Random e4m3 values of that shape."""
    flat = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
    for part in flat.view(torch.uint8).view(-1).split(2**26):
        part.copy_(torch.randn(part.shape, device=device).to(torch.float8_e4m3fn).view(torch.uint8))
    return flat


def random_rows(rows: int, d_qk: int, device: torch.device | str = "cuda") -> torch.Tensor:
    """bf16 latent rows [rows, 1, d_qk]."""
    return torch.randn(rows, 1, d_qk, device=device, dtype=torch.bfloat16)


def random_fp8_ds_mla(rows: int, device: torch.device | str = "cuda") -> torch.Tensor:
    """fp8_ds_mla pages [rows / 64, 64, 1, 656] with random codes, scales near one and random rope values."""
    cache = torch.empty(-(-rows // PAGE_SIZE), PAGE_SIZE, 1, 656, dtype=torch.uint8, device=device)
    for part in cache.split(2048):
        shape = part.shape[:3]
        part[..., :512] = torch.randn(*shape, 512, device=device).to(torch.float8_e4m3fn).view(torch.uint8)
        part[..., 512:528] = (torch.rand(*shape, 4, device=device) + 0.5).view(torch.uint8)
        part[..., 528:] = torch.randn(*shape, 64, device=device).to(torch.bfloat16).view(torch.uint8)
    return cache


def random_indexer_cache(num_pages: int, device: torch.device | str = "cuda") -> torch.Tensor:
    """Indexer pages [num_pages, 64, 1, 132]: random codes, then scales near one."""
    cache = torch.empty(num_pages, PAGE_SIZE * 132, dtype=torch.uint8, device=device)
    for part in cache.split(2**13):
        part[:, : PAGE_SIZE * 128] = random_codes(part.shape[0], PAGE_SIZE * 128, device=device).view(torch.uint8)
        part[:, PAGE_SIZE * 128 :] = (torch.rand(part.shape[0], PAGE_SIZE, device=device) + 0.5).view(torch.uint8)
    return cache.view(num_pages, PAGE_SIZE, 1, 132)


def random_selection(
    tokens: int, topk: int, span: int, device: torch.device | str = "cuda", bases: list[int] | None = None
) -> torch.Tensor:
    """Distinct rows for each token, [tokens, 1, topk] int32: `span` rows from `bases[token]` on; -1 past the span."""
    picked = torch.full((tokens, topk), -1, dtype=torch.int32, device=device)
    count = min(topk, span)
    for token in range(tokens):
        picked[token, :count] = torch.randperm(span, device=device)[:count] + (bases[token] if bases else 0)
    return picked[:, None, :].contiguous()


def spaced(count: int, most: int) -> list[int]:
    """At most `most` positions below `count`, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]


def rotations(cache_bytes: int, touched: float, most: int) -> int:
    """So many inputs that a replay touches four times `cache_bytes` (those of L2): 1 to `most`."""
    return max(1, min(most, -(-4 * cache_bytes // max(1, int(touched)))))
