"""The KV cache of one rank: the caches of its layers, and the blocks of one pool in which vLLM keeps them.

vLLM gives every layer a cache of pages and cuts all of them from one pool of equal blocks. Layers whose pages can share
a block table form a group; a block is as wide as the widest group, so a group of small pages wastes the rest of it.
`Pool` follows vllm.v1.core.kv_cache_planning (_get_packed_kv_cache_groups, _approximate_gcd) and the specs' own
max_memory_usage_bytes; the tests compare it, block for block, with what the installed vLLM plans.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lcm

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.families import family_of
from dsa_doctor.planner.families.base import Cache, CacheOptions
from dsa_doctor.planner.parallel import Parallel, pipeline_layers

__all__ = ["Group", "Pool", "pool_of", "stage_caches", "token_bytes"]

_GROWING = ("rows", "index")


@dataclass(frozen=True)
class Group:
    """Caches that share a block table.

    Attributes:
        first: one of them.
        bytes: pages of all of them together.
    """

    first: Cache
    bytes: int

    def blocks(self, context: int, in_flight: int) -> int:
        """Return the most blocks that one request of `context` tokens holds, with `in_flight` tokens unsettled."""
        one = self.first
        if one.kind in _GROWING:
            return -(-context // one.block)
        if one.kind == "window":
            return -(-min(one.window - 1 + in_flight, context) // one.block) + 1
        return one.states


@dataclass(frozen=True)
class Pool:
    """The blocks of one rank.

    Attributes:
        groups: groups of caches, each with a block table of its own.
        block_bytes: bytes of one block, whichever group holds it.
        block: tokens of a block of the caches that grow with the context.
    """

    groups: tuple[Group, ...]
    block_bytes: int
    block: int

    def request_blocks(self, context: int, in_flight: int) -> int:
        """Return the most blocks that one request of `context` tokens holds."""
        return sum(group.blocks(context, in_flight) for group in self.groups)

    def request_bytes(self, context: int, in_flight: int) -> int:
        """Return the bytes of those blocks."""
        return self.block_bytes * self.request_blocks(context, in_flight)

    def longest(self, size: int, in_flight: int, limit: int) -> int:
        """Return the tokens, whole blocks and at most `limit`, of the longest request that `size` bytes hold."""
        low, high = 0, -(-limit // self.block)
        while low < high:
            middle = (low + high + 1) // 2
            if self.request_bytes(middle * self.block, in_flight) <= size:
                low = middle
            else:
                high = middle - 1
        return low * self.block

    def token_capacity(self, size: int, context: int, in_flight: int) -> int:
        """Return the tokens that `size` bytes hold in requests of `context` tokens, as vLLM logs its capacity."""
        if not self.groups:
            return 0
        blocks = size // self.block_bytes
        if all(group.first.kind in _GROWING for group in self.groups):
            return blocks * self.block // len(self.groups)
        return blocks * context // max(1, self.request_blocks(context, in_flight))


@lru_cache(maxsize=1024)
def stage_caches(
    model: ModelGeometry, parallel: Parallel, stage: int, options: CacheOptions, *, mtp: bool
) -> tuple[Cache, ...]:
    """Return the caches of the layers of a pipeline stage; draft layers stand on the last one."""
    layers = list(pipeline_layers(model.num_hidden_layers, parallel.pipeline)[stage])
    if mtp and stage == parallel.pipeline - 1:
        layers += range(model.num_hidden_layers, model.num_hidden_layers + model.draft_layers)
    caches = family_of(model).caches
    return tuple(cache for layer in layers for cache in caches(model, layer, options))


@lru_cache(maxsize=256)
def pool_of(caches: tuple[Cache, ...]) -> Pool:
    """Return the pool in which vLLM keeps these caches."""
    buckets: dict[tuple[object, ...], list[Cache]] = {}
    for cache in caches:
        buckets.setdefault(_bucket(cache), []).append(cache)
    by_page = [_by_page(bucket) for bucket in buckets.values()]
    repeats = _repeats(by_page)
    counts = [_groups_of(pages, repeats) for pages in by_page]
    anchor = max(
        (
            _widest(pages, sum(map(len, pages.values())) if _is_state(pages, repeats) else count)
            for pages, count in zip(by_page, counts, strict=True)
        ),
        default=0,
    )
    groups: list[Group] = []
    for pages, count in zip(by_page, counts, strict=True):
        split = count
        first = next(iter(pages.values()))[0]
        if anchor and _is_state(pages, repeats):
            whole = sum(map(len, pages.values()))
            split = max(split, -(-whole // max(anchor // first.page, 1)))
        for part in range(split):
            held = [cache for layers in pages.values() for cache in layers[part::split]]
            if held:
                groups.append(Group(first=held[0], bytes=sum(cache.page for cache in held)))
    growing = [group.first.block for group in groups if group.first.kind in _GROWING]
    stride = lcm(*(cache.stride for cache in caches)) if caches else 1
    width = -(-max((group.bytes for group in groups), default=0) // stride) * stride
    return Pool(tuple(groups), width, max(growing, default=1))


def token_bytes(caches: tuple[Cache, ...]) -> tuple[int, int]:
    """Return the bytes that one more token of context takes in a stage's caches: (KV rows, index keys).

    Windows and states are not in it; fractions of a byte are rounded up.
    """
    return _per_token(caches, "rows"), _per_token(caches, "index")


def _per_token(caches: Iterable[Cache], kind: str) -> int:
    chosen = [cache for cache in caches if cache.kind == kind]
    if not chosen:
        return 0
    return -(-sum(cache.page for cache in chosen) // chosen[0].block)


def _bucket(cache: Cache) -> tuple[object, ...]:
    """Return what caches of one bucket have in common: vLLM's UniformTypeKVCacheSpecs."""
    kind = "growing" if cache.kind in _GROWING else cache.kind
    if kind == "window":
        return kind, cache.block, cache.window
    return kind, cache.block


def _by_page(bucket: Sequence[Cache]) -> dict[int, list[Cache]]:
    pages: dict[int, list[Cache]] = {}
    for cache in bucket:
        pages.setdefault(cache.page, []).append(cache)
    return pages


def _is_balanced(pages: dict[int, list[Cache]]) -> bool:
    return len({len(layers) for layers in pages.values()}) == 1


def _deepest(pages: dict[int, list[Cache]]) -> int:
    return max(len(layers) for layers in pages.values())


def _repeats(buckets: Sequence[dict[int, list[Cache]]]) -> int | None:
    """Return how many layers of each page size a group holds, or None where no bucket mixes page sizes evenly."""
    balanced = [pages for pages in buckets if _is_balanced(pages)]
    floor = max((_deepest(pages) for pages in balanced if len(pages) > 1), default=0)
    if not floor or len({page for pages in buckets for page in pages}) <= 1:
        return None
    depths = [_deepest(pages) for pages in balanced]
    # The last of the steps with the least padding: vLLM prefers the larger.
    return min(range(floor, max(depths) + 1), key=lambda step: (sum(-one % step for one in depths), -step))


def _groups_of(pages: dict[int, list[Cache]], repeats: int | None) -> int:
    return -(-_deepest(pages) // repeats) if repeats is not None and _is_balanced(pages) else 1


def _widest(pages: dict[int, list[Cache]], groups: int) -> int:
    return sum(-(-len(layers) // groups) * page for page, layers in pages.items())


def _is_state(pages: dict[int, list[Cache]], repeats: int | None) -> bool:
    kind = next(iter(pages.values()))[0].kind
    return kind in ("state", "ring") or (repeats is None and kind == "window")
