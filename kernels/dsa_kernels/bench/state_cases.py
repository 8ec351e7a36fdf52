"""Cases of the ops around the caches of GLM-5.3-Flash and DeepSeek-V4: pooled keys, compressed rows, the engram."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from dsa_kernels.bench.case import Case, named
from dsa_kernels.bench.gate import require, require_equal
from dsa_kernels.bench.inputs import PAGE_SIZE, spaced
from dsa_kernels.bench.work import INDEX_DIM, INDEX_TOKEN_BYTES, VALUE_DIM, Work
from dsa_kernels.compressor import interface as compressor
from dsa_kernels.compressor.naive import (
    naive_compress_to_rows,
    naive_index_key_norm_rope_store,
    naive_inverse_rope,
)
from dsa_kernels.engram import interface as engram
from dsa_kernels.engram.naive import naive_engram_lookup
from dsa_kernels.fp8.naive import naive_read_indexer_cache
from dsa_kernels.kpool import interface as kpool
from dsa_kernels.kpool.naive import naive_hadamard_quantize_fp8, naive_pool, naive_rotate

#: e4m3 codes of a bf16 sum that may round either way: a step is an eighth, in a few of a hundred places.
CODES_LIMIT = 1e-2
KEYS_LIMIT = 4e-2
ROWS_LIMIT = 4e-3
CHECKED = 32
POOL, ROPE, STATE_BLOCK = 4, 64, 4
#: Calls of one graph: the launch of a graph takes as long as the small shapes themselves.
REPEATS = 16


def rotate_case(rows: int, shape: dict[str, int | str], device: torch.device | str = "cuda") -> Case:
    """`hadamard_quantize_fp8`. Gate: dequantised values of some rows."""
    x = torch.randn(rows, INDEX_DIM, device=device, dtype=torch.bfloat16)
    op = "rotate and quantise"

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return kpool.hadamard_quantize_fp8(x)

    def check() -> float:
        some = spaced(rows, CHECKED)
        codes, scale = run()
        wanted, wanted_scale = naive_hadamard_quantize_fp8(x[some])
        got = codes.view(torch.uint8)[some].view(torch.float8_e4m3fn).float() * scale[some]
        return require(named(op, shape), got, wanted.float() * wanted_scale, CODES_LIMIT)

    return Case(op, shape, Work(float(rows * (INDEX_DIM * 3 + 4))), CODES_LIMIT, check, [run] * REPEATS)


def pool_case(tokens: int, shape: dict[str, int | str], device: torch.device | str = "cuda") -> Case:
    """`kpool_compress_and_cache` of whole pools. Gate: the keys of some pools against pooled, rotated bf16."""
    pools = tokens // POOL
    key, gate = (torch.randn(pools, POOL, INDEX_DIM, device=device, dtype=torch.bfloat16) for _ in range(2))
    ape = torch.randn(POOL, INDEX_DIM, device=device)
    cache = torch.zeros(-(-pools // PAGE_SIZE), PAGE_SIZE, INDEX_TOKEN_BYTES, dtype=torch.uint8, device=device)
    slots = torch.randperm(cache.shape[0] * PAGE_SIZE, device=device)[:pools]
    op = "pooled keys, prefill"

    def run() -> None:
        kpool.kpool_compress_and_cache(cache, key, gate, ape, slots)

    def check() -> float:
        run()
        some = spaced(pools, CHECKED)
        codes, scale = naive_read_indexer_cache(cache, slots[some])
        wanted = naive_rotate(naive_pool(key[some], gate[some], ape))
        return require(named(op, shape), codes.float() * scale[:, None], wanted.float(), KEYS_LIMIT)

    work = Work(float(tokens * INDEX_DIM * 4 + pools * (INDEX_TOKEN_BYTES + 8)))
    return Case(op, shape, work, KEYS_LIMIT, check, [run] * REPEATS)


def tail_case(requests: int, shape: dict[str, int | str], device: torch.device | str = "cuda") -> Case:
    """`kpool_decode_update` where every request completes a pool. Gate: the keys of some requests."""
    key, gate = (torch.randn(requests, 1, INDEX_DIM, device=device, dtype=torch.bfloat16) for _ in range(2))
    ape = torch.randn(POOL, INDEX_DIM, device=device)
    tail = torch.randn(requests, 2, POOL, INDEX_DIM, device=device, dtype=torch.bfloat16)
    cache = torch.zeros(requests, PAGE_SIZE, INDEX_TOKEN_BYTES, dtype=torch.uint8, device=device)
    request = torch.arange(requests, dtype=torch.int32, device=device)[:, None]
    positions = torch.full_like(request, POOL - 1)
    slots = request * PAGE_SIZE
    op = "pooled keys, decode"

    def run() -> None:
        kpool.kpool_decode_update(cache, tail, request * POOL + positions, key, gate, ape, slots, positions)

    def check() -> float:
        before = tail.clone()
        run()
        some = spaced(requests, CHECKED)
        keys = torch.cat((before[some, 0, : POOL - 1], key[some]), 1)
        gates = torch.cat((before[some, 1, : POOL - 1], gate[some]), 1)
        codes, scale = naive_read_indexer_cache(cache, slots[some, 0].long())
        wanted = naive_rotate(naive_pool(keys, gates, ape))
        return require(named(op, shape), codes.float() * scale[:, None], wanted.float(), KEYS_LIMIT)

    work = Work(float(requests * (INDEX_DIM * 2 * (2 * POOL + 4) + INDEX_TOKEN_BYTES)))
    return Case(op, shape, work, KEYS_LIMIT, check, [run] * REPEATS)


def compress_inputs(tokens: int, ratio: int, overlap: bool, device: torch.device | str = "cuda") -> dict[str, Any]:
    """One request's tokens from position 0 on, states in shuffled blocks; `kv_cache` holds every group's row."""
    parts = 2 if overlap else 1
    blocks = -(-tokens // STATE_BLOCK)
    positions = torch.arange(tokens, device=device)
    turns = positions[:, None] * 10_000.0 ** (-torch.arange(0, ROPE, 2, device=device) / ROPE)
    groups = tokens // ratio
    return {
        "state_cache": torch.randn(blocks, STATE_BLOCK, 2 * parts * VALUE_DIM, device=device),
        "token_to_request": torch.zeros(tokens, dtype=torch.int32, device=device),
        "positions": positions,
        "state_slots": positions,
        "block_table": torch.randperm(blocks, device=device)[None].int(),
        "norm_weight": torch.rand(VALUE_DIM, device=device) + 0.5,
        "eps": 1e-6,
        "cos_sin_cache": torch.cat((turns.cos(), turns.sin()), -1),
        "kv_cache": torch.zeros(-(-groups // PAGE_SIZE), PAGE_SIZE, VALUE_DIM, dtype=torch.bfloat16, device=device),
        "slot_mapping": torch.where((positions + 1) % ratio == 0, positions // ratio, -1),
        "ratio": ratio,
        "overlap": overlap,
    }


def compress_case(inputs: dict[str, Any], shape: dict[str, int | str]) -> Case:
    """`compress_to_rows`. Gate: the rows of some groups."""
    tokens, ratio = inputs["positions"].shape[0], inputs["ratio"]
    groups, window = tokens // ratio, ratio * (2 if inputs["overlap"] else 1)
    op = "compressed rows"

    def run() -> None:
        compressor.compress_to_rows(**inputs)

    def check() -> float:
        run()
        found = inputs["kv_cache"].view(-1, VALUE_DIM).clone()
        some = torch.tensor(spaced(groups, CHECKED))
        picked = {name: inputs[name][(some + 1) * ratio - 1] for name in ("positions", "slot_mapping", "state_slots")}
        requests = inputs["token_to_request"][: len(some)]
        wanted = torch.zeros_like(inputs["kv_cache"])
        naive_compress_to_rows(**inputs | picked | {"token_to_request": requests, "kv_cache": wanted})
        return require(named(op, shape), found[some], wanted.view(-1, VALUE_DIM)[some], ROWS_LIMIT)

    # Of each state in a window its half of the values and of the scores.
    work = Work(float(groups * (window * 2 * VALUE_DIM * 4 + VALUE_DIM * 2) + tokens * 28))
    return Case(op, shape, work, ROWS_LIMIT, check, [run] * REPEATS)


def inverse_rope_case(
    tokens: int, heads: int, groups: int, shape: dict[str, int | str], device: torch.device | str = "cuda"
) -> Case:
    """`inverse_rope_grouped`. Gate: some tokens."""
    o = torch.randn(tokens, heads, VALUE_DIM, device=device, dtype=torch.bfloat16)
    positions = torch.randint(0, 4096, (tokens,), device=device)
    turns = torch.rand(4096, ROPE // 2, device=device) * 6.2831853
    angles = torch.cat((turns.cos(), turns.sin()), -1)
    op = "inverse rope"

    def run() -> torch.Tensor:
        return compressor.inverse_rope_grouped(o, positions, angles, groups)

    def check() -> float:
        some = spaced(tokens, CHECKED)
        wanted = naive_inverse_rope(o[some], positions[some], angles, groups)
        return require(named(op, shape), run()[:, some], wanted, ROWS_LIMIT)

    work = Work(float(tokens * heads * VALUE_DIM * 4 + tokens * (ROPE * 4 + 8)))
    return Case(op, shape, work, ROWS_LIMIT, check, [run] * REPEATS)


def index_key_case(tokens: int, ratio: int, shape: dict[str, int | str], device: torch.device | str = "cuda") -> Case:
    """`index_key_norm_rope_store` of one request from position 0 on. Gate: the keys of some groups."""
    k = torch.randn(tokens, INDEX_DIM, device=device, dtype=torch.bfloat16)
    positions = torch.arange(tokens, device=device)
    turns = positions[:, None] * 10_000.0 ** (-torch.arange(0, ROPE, 2, device=device) / ROPE)
    angles = torch.cat((turns.cos(), turns.sin()), -1)
    weight = torch.rand(INDEX_DIM, device=device) + 0.5
    groups = tokens // ratio
    cache = torch.zeros(-(-groups // PAGE_SIZE), PAGE_SIZE, INDEX_TOKEN_BYTES, dtype=torch.uint8, device=device)
    slots = torch.where((positions + 1) % ratio == 0, positions // ratio, -1)
    op = "index keys without pooling"

    def run() -> None:
        compressor.index_key_norm_rope_store(k, positions, weight, 1e-6, angles, cache, slots, ratio)

    def check() -> float:
        run()
        some = torch.tensor(spaced(groups, CHECKED), device=device)
        last = (some + 1) * ratio - 1
        right = torch.zeros_like(cache)
        naive_index_key_norm_rope_store(k[last], positions[last], weight, 1e-6, angles, right, slots[last], ratio)
        codes, scale = naive_read_indexer_cache(cache, some)
        wanted, wanted_scale = naive_read_indexer_cache(right, some)
        got, wanted = codes.float() * scale[:, None], wanted.float() * wanted_scale[:, None]
        return require(named(op, shape), got, wanted, CODES_LIMIT)

    work = Work(float(groups * (INDEX_DIM * 2 + INDEX_TOKEN_BYTES + ROPE * 4) + tokens * 16))
    return Case(op, shape, work, CODES_LIMIT, check, [run] * REPEATS)


def engram_case(
    tokens: int, heads: int, rows: int, on_host: bool, shape: dict[str, int | str], device: torch.device | str = "cuda"
) -> Case:
    """`engram_lookup` of random ids, another set in every call. Gate: some tokens, bit for bit."""
    width, group = 256, 32
    table = torch.randint(0, 120, (rows, width), dtype=torch.uint8, device=device)
    scales = torch.randint(110, 130, (rows, width // group), dtype=torch.uint8, device=device)
    if on_host:
        table, scales = table.cpu().pin_memory(), scales.cpu().pin_memory()
    ids = [torch.randint(0, rows, (tokens, heads), device=device) for _ in range(REPEATS)]
    out = torch.empty(tokens, heads, width, dtype=torch.bfloat16, device=device)
    op = "engram lookup"

    def run(chosen: torch.Tensor) -> None:
        engram.engram_lookup(table, scales, chosen, out, 0)

    def check() -> float:
        run(ids[0])
        some = spaced(tokens, CHECKED)
        wanted = torch.empty(len(some), heads, width, dtype=torch.bfloat16)
        naive_engram_lookup(table, scales, ids[0][some].cpu(), wanted, 0)
        return require_equal(named(op, shape), out[some].cpu(), wanted)

    work = Work(float(tokens * heads * (width + width // group + 8 + width * 2)))
    return Case(op, shape, work, 0.0, check, [partial(run, chosen) for chosen in ids])
