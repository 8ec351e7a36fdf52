"""Self-test of pooled index keys: the rotation, pools of prefill, pools that decoding completes."""

from __future__ import annotations

import torch

from dsa_kernels import kpool
from dsa_kernels.fp8.naive import naive_read_indexer_cache
from dsa_kernels.selftest.case import Case, Outcome, Place
from dsa_kernels.selftest.compare import equal, require, worst

POOL, DIM, PAGE = 4, 128, 64
_UNTOUCHED = 0xA5


def same_keys(got: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]) -> Outcome:
    """Equal, but where a sum lies between two bf16 numbers: then one step of e4m3, in at most 2 % of the places."""
    found, expected = (codes.float() * scale.reshape(-1, 1) for codes, scale in (got, wanted))
    step = torch.maximum(expected.abs() / 8, wanted[1].reshape(-1, 1) * 2.0**-9)
    far = ~((found - expected).abs() <= step * 1.001)
    near = require(not bool(far.any()), "keys at most one step of e4m3 off", f"{int(far.sum())} further off")
    share, limit = float((found != expected).float().mean()), 0.02
    return worst((near, Outcome(share <= limit, share, limit, "the reference's keys", f"{share:.1%} differ")))


def _rotate(place: Place) -> Outcome:
    x = place.normal(place.generator(1), place.pick(100_003, 37), DIM)
    x *= torch.exp2(place.normal(place.generator(2), x.shape[0], 1) * 5)
    x[:1] = 0
    rows = torch.cat((x.bfloat16(), torch.eye(DIM, dtype=torch.bfloat16, device=place.device)))
    return same_keys(kpool.hadamard_quantize_fp8(rows), kpool.naive_hadamard_quantize_fp8(rows))


def _caches(place: Place, pages: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A cache whose pages lie apart in memory, and one for the reference on the CPU."""
    apart = torch.full((2 * pages, PAGE, DIM + 4), _UNTOUCHED, dtype=torch.uint8, device=place.device)
    return apart[::2], torch.full((pages, PAGE, DIM + 4), _UNTOUCHED, dtype=torch.uint8)


def _same_caches(got: torch.Tensor, wanted: torch.Tensor, slots: torch.Tensor) -> Outcome:
    """Written slots as keys; of the rest, that it is untouched."""
    got = got.cpu()
    written = torch.unique(slots[slots >= 0].long().cpu())
    rest = torch.ones(got.shape[0] * PAGE, dtype=torch.bool)
    rest[written] = False
    pages = got.reshape(got.shape[0], -1)
    codes = pages[:, : PAGE * DIM].reshape(-1, DIM)[rest]
    scales = pages[:, PAGE * DIM :].reshape(-1, 4)[rest]
    kept = bool((codes == _UNTOUCHED).all()) and bool((scales == _UNTOUCHED).all())
    keys = same_keys(naive_read_indexer_cache(got, written), naive_read_indexer_cache(wanted, written))
    return worst((require(kept, "slots of no pool untouched", "a byte changed there"), keys))


def _compress(place: Place) -> Outcome:
    """Pools as prefill has them: one window for each token, overlapping in memory, those between pools masked."""
    tokens = place.pick(4099, 43)
    windows = tokens - POOL + 1
    key, gate = (place.normal(place.generator(seed), tokens, DIM).bfloat16() for seed in (3, 4))
    gate *= 20
    ape = place.normal(place.generator(5), POOL, DIM)
    places = torch.arange(windows, device=place.device)
    slots = torch.where(places % POOL == 0, places // POOL, -1)
    mask = places % (3 * POOL) != 0
    keys, gates = (one.as_strided((windows, POOL, DIM), (DIM, DIM, 1)) for one in (key, gate))
    found, wanted = _caches(place, -(-windows // (POOL * PAGE)))
    kpool.kpool_compress_and_cache(found, keys, gates, ape, slots, mask)
    keys, gates = keys.cpu().contiguous(), gates.cpu().contiguous()
    kpool.naive_kpool_compress_and_cache(wanted, keys, gates, ape.cpu(), slots.cpu(), mask.cpu())
    return _same_caches(found, wanted, torch.where(mask, slots, -1))


def _decode(place: Place, next_n: int) -> Outcome:
    """Steps of several requests; one token of each step is padded; the ring keeps more than a pool."""
    requests, ring, steps = place.pick(64, 5), 2 * POOL, 5
    found, wanted = _caches(place, -(-requests * 8 // PAGE))
    tail = place.normal(place.generator(6), requests, 2, ring, DIM).bfloat16()
    kept = tail.cpu().clone()
    ape = place.normal(place.generator(7), POOL, DIM)
    request = torch.arange(requests, device=place.device)[:, None]
    written = []
    for step in range(steps):
        key, gate = (place.normal(place.generator(8 + 2 * step + i), requests, next_n, DIM).bfloat16() for i in (0, 1))
        positions = request % POOL + step * next_n + torch.arange(next_n, device=place.device)[None]
        slots = torch.where(positions % POOL == POOL - 1, request * 8 + positions // POOL, -1)
        tails = request.flip(0) * ring + positions % ring
        for integers in (positions, slots, tails):
            integers[step, -1] = -1
        arguments = (tails.int(), key, gate, ape, slots.int(), positions.int())
        kpool.kpool_decode_update(found, tail, *arguments)
        kpool.naive_kpool_decode_update(wanted, kept, *(one.cpu() for one in arguments))
        written.append(slots.reshape(-1))
    return worst((equal("the tail", tail.cpu(), kept), _same_caches(found, wanted, torch.cat(written))))


def _far(place: Place) -> Outcome:
    """Pages and tail blocks more than 2^31 bytes apart."""
    stride = 2**31 + 4096
    far = torch.empty(2 * stride + PAGE * (DIM + 4), dtype=torch.uint8, device=place.device)
    cache = far.as_strided((3, PAGE, DIM + 4), (stride, DIM + 4, 1))
    cache.fill_(_UNTOUCHED)
    wanted = torch.full((3, PAGE, DIM + 4), _UNTOUCHED, dtype=torch.uint8)
    half = stride // 2
    far_tail = torch.empty(2 * half + 2 * POOL * DIM, dtype=torch.bfloat16, device=place.device)
    tail = far_tail.as_strided((3, 2, POOL, DIM), (half, POOL * DIM, DIM, 1))
    tail.copy_(place.normal(place.generator(9), 3, 2, POOL, DIM))
    kept = tail.cpu().clone()
    key, gate = (place.normal(place.generator(seed), 3, 1, DIM).bfloat16() for seed in (10, 11))
    ape = place.normal(place.generator(12), POOL, DIM)
    positions = torch.full((3, 1), POOL - 1, dtype=torch.int32, device=place.device)
    slots = place.int32([2 * PAGE + 5, 7, PAGE + 63])[:, None]
    tails = place.int32([2 * POOL + 3, 3, POOL + 3])[:, None]
    kpool.kpool_decode_update(cache, tail, tails, key, gate, ape, slots, positions)
    arguments = (tails, key, gate, ape, slots, positions)
    kpool.naive_kpool_decode_update(wanted, kept, *(one.cpu() for one in arguments))
    return worst((equal("the tail", tail.cpu(), kept), _same_caches(cache, wanted, slots.reshape(-1))))


CASES = (
    Case("rotate and quantise", "kpool", "butterflies in another order, a scale too small", _rotate),
    Case("pools of a prefill", "kpool", "a masked pool written, one softmax for all dimensions", _compress),
    Case("pools that decoding completes", "kpool", "a token kept too late or in another row", lambda p: _decode(p, 1)),
    Case("pools that a draft completes", "kpool", "a pool that ends inside a step", lambda p: _decode(p, 3)),
)

FAR_CASES = (Case("pools past 2^31", "kpool", "page or tail offsets in 32 bits", _far, gib=9),)
