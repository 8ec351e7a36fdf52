"""Self-test of DeepSeek-V4's compressor and of the rope of its attention's output."""

from __future__ import annotations

from typing import Any

import torch

from dsa_kernels import compressor
from dsa_kernels.fp8.naive import naive_read_indexer_cache
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import relative_error, require, worst
from dsa_kernels.selftest.kpool_cases import same_keys

BLOCK, PAGE, ROPE = 4, 64, 64
_UNTOUCHED = 7.0


def angles(place: Place, positions: int) -> torch.Tensor:
    """Cosines and sines of every position: [positions, ROPE] fp32."""
    frequencies = 10_000.0 ** (-torch.arange(0, ROPE, 2, device=place.device) / ROPE)
    turns = torch.arange(positions, device=place.device)[:, None] * frequencies
    return torch.cat((turns.cos(), turns.sin()), -1)


def requests(place: Place, width: int, ratio: int, overlap: bool) -> tuple[dict[str, Any], int]:
    """Tokens of several requests with states in shuffled blocks, and how many slots their groups take.

    States of blocks that no request has are NaN; every seventh token is padded.
    """
    parts = 2 if overlap else 1
    count, length = place.pick(16, 2), 2 * ratio + ratio // 2 + 1
    blocks = -(-length // BLOCK)
    order = torch.randperm(2 * blocks * count, generator=place.generator(1), device=place.device)
    state = place.normal(place.generator(2), 2 * blocks * count, BLOCK, 2 * parts * width)
    state[..., parts * width :] *= 5
    state[order[blocks * count :]] = float("nan")
    positions = torch.arange(length, device=place.device).repeat(count)
    ends = (positions + 1) % ratio == 0
    slots = torch.where(ends, torch.cumsum(ends, 0) - 1, -1)
    state_slots = torch.arange(positions.shape[0], device=place.device)
    state_slots[::7] = -1
    given = {
        "state_cache": state,
        "token_to_request": torch.arange(count, device=place.device).repeat_interleave(length).int(),
        "positions": positions,
        "state_slots": state_slots,
        "block_table": order[: blocks * count].view(count, blocks).int(),
        "norm_weight": place.normal(place.generator(3), width) * 0.3 + 1,
        "eps": 1e-6,
        "cos_sin_cache": angles(place, length),
        "slot_mapping": slots,
        "ratio": ratio,
        "overlap": overlap,
    }
    return given, int(ends.sum())


def _on_cpu(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in given.items()}


def _written(given: dict[str, Any]) -> torch.Tensor:
    slots, states = given["slot_mapping"].cpu(), given["state_slots"].cpu()
    return slots[(slots >= 0) & (states >= 0)]


def _rows(place: Place, ratio: int, overlap: bool) -> Outcome:
    given, groups = requests(place, 512, ratio, overlap)
    pages = -(-groups // PAGE)
    apart = torch.full((2 * pages, PAGE, 512), _UNTOUCHED, dtype=torch.bfloat16, device=place.device)
    wanted = torch.full((pages, PAGE, 512), _UNTOUCHED, dtype=torch.bfloat16)
    compressor.compress_to_rows(kv_cache=apart[::2], **given)
    compressor.naive_compress_to_rows(kv_cache=wanted, **_on_cpu(given))
    written = _written(given)
    found, expected = apart[::2].cpu().reshape(-1, 512), wanted.reshape(-1, 512)
    rest = torch.ones(found.shape[0], dtype=torch.bool)
    rest[written] = False
    kept = require(bool((found[rest] == _UNTOUCHED).all()), "rows of no group untouched", "a row changed there")
    return worst((kept, relative_error("row", found[written], expected[written].double(), 2e-3)))


def _index_keys(place: Place) -> Outcome:
    given, groups = requests(place, 128, 4, True)
    pages = -(-groups // PAGE)
    found = torch.zeros((pages, PAGE, 132), dtype=torch.uint8, device=place.device)
    wanted = torch.zeros((pages, PAGE, 132), dtype=torch.uint8)
    compressor.compress_to_index_keys(kv_cache=found, **given)
    compressor.naive_compress_to_index_keys(kv_cache=wanted, **_on_cpu(given))
    written = _written(given).long()
    keys = same_keys(naive_read_indexer_cache(found.cpu(), written), naive_read_indexer_cache(wanted, written))
    untouched = torch.ones(pages * PAGE, dtype=torch.bool)
    untouched[written] = False
    codes, scale = naive_read_indexer_cache(found.cpu(), torch.arange(pages * PAGE)[untouched])
    empty = not bool(codes.view(torch.uint8).any()) and not bool(scale.any())
    return worst((require(empty, "slots of no group untouched", "a byte changed there"), keys))


def _finished_keys(place: Place) -> Outcome:
    """Keys of DeepSeek-V4.1: rows that end no group are NaN, slots of none, more rows than slots."""
    ratio, tokens = 2, place.pick(8192, 37)
    positions = torch.arange(tokens, device=place.device)
    ends = (positions + 1) % ratio == 0
    slots = torch.where(ends, positions // ratio, positions)  # those between must not write over others
    slots[8::9] = -1
    k = place.normal(place.generator(6), tokens + 3, 128).bfloat16()
    k[:tokens][~ends] = float("nan")
    weight = place.normal(place.generator(7), 128) * 0.3 + 1
    table = angles(place, tokens)
    pages = -(-tokens // PAGE)
    found = torch.full((pages, PAGE, 132), int(_UNTOUCHED), dtype=torch.uint8, device=place.device)
    wanted = found.cpu().clone()
    padded = torch.cat((positions, positions[:3]))
    compressor.index_key_norm_rope_store(k, padded, weight, 1e-6, table, found, slots, ratio)
    compressor.naive_index_key_norm_rope_store(
        k.cpu(), padded.cpu(), weight.cpu(), 1e-6, table.cpu(), wanted, slots.cpu(), ratio
    )
    written = torch.zeros(pages * PAGE, dtype=torch.bool)
    written[slots[ends & (slots >= 0)].cpu()] = True
    keys, rest = written.nonzero()[:, 0], (~written).nonzero()[:, 0]
    same = same_keys(naive_read_indexer_cache(found.cpu(), keys), naive_read_indexer_cache(wanted, keys))
    codes, scale = naive_read_indexer_cache(found.cpu(), rest)
    other_codes, other_scale = naive_read_indexer_cache(wanted, rest)
    kept = torch.equal(codes.view(torch.uint8), other_codes.view(torch.uint8)) and torch.equal(scale, other_scale)
    return worst((require(kept, "slots of no group untouched", "a byte changed there"), same))


def _inverse_rope(place: Place) -> Outcome:
    tokens, heads, groups = place.pick(2051, 5), 8, 4
    o = place.normal(place.generator(4), tokens, heads + 3, 512).bfloat16()[:, :heads]
    positions = place.whole(place.generator(5), 0, 300, tokens)
    found = compressor.inverse_rope_grouped(o, positions, angles(place, 300), groups)
    wanted = compressor.naive_inverse_rope(o.cpu(), positions.cpu(), angles(place, 300).cpu(), groups)
    return relative_error("head", found.cpu().unflatten(-1, (-1, 512)), wanted.unflatten(-1, (-1, 512)).double(), 2e-3)


CASES = (
    Case("rows of groups that overlap", "compressor", "halves swapped, a group before 0", lambda p: _rows(p, 4, True)),
    Case("rows of long groups", "compressor", "a step of the window lost", lambda p: _rows(p, 128, False)),
    Case("index keys", "compressor", "rope by the token's position, a padded token written", _index_keys),
    Case("keys without pooling", "compressor", "a row between two groups written", _finished_keys),
    Case("the output's rope, back and grouped", "compressor", "rotated forth, groups mixed", _inverse_rope),
)
