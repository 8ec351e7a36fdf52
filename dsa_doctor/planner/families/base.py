"""What every family description is made of: weights with their sharding, caches with their pages."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from dsa_doctor.catalog.geometry import ModelGeometry

Part = Literal[
    "embedding",
    "attention",
    "linear attention",
    "indexer",
    "compressor",
    "dense MLP",
    "router",
    "routed experts",
    "shared experts",
    "hyper-connections",
    "engram",
    "norms",
    "vision tower",
    "output head",
    "MTP",
]
Sharding = Literal["replicated", "tensor", "vocabulary", "experts", "host"]
Kind = Literal["linear", "plain", "float32", "int64", "table"]
CacheKind = Literal["rows", "index", "window", "ring", "state"]


@dataclass(frozen=True)
class Weight:
    """One weight, or the same weight of every expert.

    Attributes:
        name: as in the checkpoint, without the layer prefix.
        part: what it belongs to.
        shape: of one copy.
        sharding: how vLLM spreads it over the ranks of its pipeline stage; host: pinned host memory, by tensor ranks.
        kind: linear weights are quantised in a quantised checkpoint; plain ones stay bfloat16; float32 and int64 ones
            are small; a table holds e4m3 rows with an e8m0 scale per 32 values, whatever the rest is stored in.
        copies: number of experts that have it; 1 otherwise.
        widened: whether vLLM keeps it in bfloat16 although the checkpoint quantises it.
        split: which side tensor parallelism slices.
    """

    name: str
    part: Part
    shape: tuple[int, ...]
    sharding: Sharding
    kind: Kind
    copies: int = 1
    widened: bool = False
    split: Literal["rows", "columns"] = "rows"

    @property
    def count(self) -> int:
        """Return the number of parameters, all copies together."""
        return self.copies * prod(self.shape)


@dataclass(frozen=True)
class Cache:
    """One cache of one layer on one rank, as vLLM's KV cache specs describe it.

    Attributes:
        kind: rows and index grow with the context; a window keeps its last tokens, a ring one block and a state
            `states` blocks per request.
        block: tokens of a block.
        page: bytes of a block.
        window: tokens of the window.
        states: blocks per request.
        stride: bytes of which the width of a pool's block must be a multiple: one page of the kernel that reads it.
    """

    kind: CacheKind
    block: int
    page: int
    window: int = 0
    states: int = 1
    stride: int = 1


@dataclass(frozen=True)
class CacheOptions:
    """What the size of a cache depends on beside the model.

    Attributes:
        tensor: tensor-parallel ranks.
        dtype: --kv-cache-dtype.
        backend: attention backend, or "auto".
        block: --block-size where it was given, else the backend's.
        drafts: speculative tokens; 0 without a draft.
    """

    tensor: int = 1
    dtype: str = "auto"
    backend: str = "auto"
    block: int = 64
    drafts: int = 0


@dataclass(frozen=True)
class Family:
    """The layer description of a family.

    Attributes:
        layer_weights: weights of a decoder layer; draft layers follow the last one.
        draft_weights: what a draft layer has beside a decoder layer's weights.
        tower_weights: weights before the first layer beside the embedding.
        head_weights: weights after the last layer.
        caches: caches of a layer.
        problems: why vLLM would refuse (tensor, pipeline) parallel sizes.
    """

    layer_weights: Callable[[ModelGeometry, int], Iterator[Weight]]
    draft_weights: Callable[[ModelGeometry, int], Iterator[Weight]]
    tower_weights: Callable[[ModelGeometry], Iterator[Weight]]
    head_weights: Callable[[ModelGeometry], Iterator[Weight]]
    caches: Callable[[ModelGeometry, int, CacheOptions], Iterator[Cache]]
    problems: Callable[[ModelGeometry, int, int], Iterator[str]]


def pipeline_layers(layers: int, stages: int) -> list[range]:
    """Return the layers of each pipeline stage, as vLLM's get_pp_indices: the rest goes to the last but one and before.

    Raises:
        ValueError: fewer layers than stages.
    """
    if layers < stages:
        raise ValueError(f"{layers} layers cannot be spread over {stages} pipeline stages; accepted: 1 to {layers}.")
    sizes = [layers // stages] * stages
    for extra in range(2, layers % stages + 2):
        sizes[-extra] += 1
    starts = [sum(sizes[:stage]) for stage in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def has_indexer(model: ModelGeometry, layer: int) -> bool:
    """Whether a layer runs an indexer of its own; draft layers (past the last one) do where the family's do."""
    if model.compression is not None:
        return layer < model.num_hidden_layers and _compresses_with_indexer(model, layer)
    return model.uses_dsa and layer not in model.shared_indexer_layer_ids and not model.is_linear(layer)


def _compresses_with_indexer(model: ModelGeometry, layer: int) -> bool:
    compression = model.compression
    if compression is None:
        return False
    if compression.index_sources is None:
        return compression.ratios[layer] == 4
    return layer in compression.index_sources


def norm(name: str, width: int, part: Part = "norms") -> Weight:
    """Return a norm's weight."""
    return Weight(name, part, (width,), "replicated", "plain")


def mlp(prefix: str, part: Part, hidden: int, width: int, names: tuple[str, str, str]) -> Iterator[Weight]:
    """Yield a gated MLP; `names` are those of gate, up and down projection."""
    for name in names[:2]:
        yield Weight(f"{prefix}{name}.weight", part, (width, hidden), "tensor", "linear")
    yield Weight(f"{prefix}{names[2]}.weight", part, (hidden, width), "tensor", "linear", split="columns")


def experts(prefix: str, count: int, hidden: int, width: int, names: tuple[str, str, str]) -> Iterator[Weight]:
    """Yield the routed experts of a layer."""
    for one in mlp(f"{prefix}experts.", "routed experts", hidden, width, names):
        yield Weight(one.name, one.part, one.shape, "experts", "linear", copies=count, split=one.split)


def no_weights(*_: object) -> Iterator[Weight]:
    """Yield nothing."""
    return iter(())


def no_problems(*_: object) -> Iterator[str]:
    """Yield nothing."""
    return iter(())
