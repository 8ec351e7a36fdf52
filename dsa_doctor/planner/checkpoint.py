"""A checkpoint whose bytes are known from its files: tensors sorted by how vLLM spreads them, or their sum alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, prod

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.quantization import Quantization, Size
from dsa_doctor.planner.headers import StoredTensor
from dsa_doctor.planner.parallel import Parallel, part_bytes, pipeline_layers, stage_weights
from dsa_doctor.planner.storage import Label, may_lack, stored_size
from dsa_doctor.planner.weights import (
    Part,
    Sharding,
    Weight,
    embedding_weight,
    head_weights,
    layer_weights,
    mtp_weights,
    tower_weights,
)

_LAYER = re.compile(r"^(?:model\.|language_model\.)*(layers|mtp)\.(\d{1,9})\.(.+)$")
_OUTSIDE = re.compile(r"^(?:model\.|language_model\.)*")
_EXPERT = re.compile(r"\bexperts\.\d+\.")
_MTP_COPIES = ("embed_tokens.", "shared_head.head.")
"""Copies of the embedding and the head that checkpoints keep in MTP layers and vLLM does not load."""


_VALUES = (".weight", ".weight_packed", ".qweight")
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Group:
    """Tensors that are spread alike."""

    layer: int | None
    part: Part
    sharding: Sharding


@dataclass(frozen=True)
class Checkpoint:
    """Bytes and parameters of a checkpoint.

    Attributes:
        bytes: in memory, by group; what vLLM widens to bfloat16 is counted at that width.
        disk_bytes: as stored.
        unrecognised: names of tensors that the planner knows no sharding for; counted as replicated.
        label: how certain the bytes of the parts are.
        notes: what a person should know of them.
    """

    bytes: Mapping[Group, int]
    disk_bytes: int
    unrecognised: tuple[str, ...]
    label: Label = "exact"
    notes: tuple[str, ...] = ()

    def lacks_drafts(self, model: ModelGeometry) -> bool:
        """Whether its tensors are known, and none is of a layer past the model's own."""
        layers = [group.layer for group in self.bytes if group.layer is not None]
        return bool(layers) and max(layers) < model.num_hidden_layers

    def part_bytes(self, model: ModelGeometry, parallel: Parallel, stage: int, *, mtp: bool) -> Mapping[Part, int]:
        """Return the bytes of each part on the fullest GPU of a stage, as `parallel.part_bytes` counts them."""
        layers = pipeline_layers(model.num_hidden_layers, parallel.pipeline)[stage]
        first, last = stage == 0, stage == parallel.pipeline - 1
        parts: dict[Part, int] = {}
        for group, size in self.bytes.items():
            part = group.part
            if group.layer is None:
                on_stage = first if part in ("embedding", "vision tower") else last
                on_stage |= part == "embedding" and last and (mtp or model.tie_word_embeddings)
            elif group.layer >= model.num_hidden_layers:
                on_stage, part = last and mtp, "MTP"
            else:
                on_stage = group.layer in layers
            if on_stage and group.sharding != "host":
                parts[part] = parts.get(part, 0) + -(-size // _ranks(group, parallel))
        return parts


@dataclass(frozen=True)
class IndexedCheckpoint(Checkpoint):
    """A checkpoint of which only the sum of the tensors is known; the configuration spreads it over the parts.

    Attributes:
        stored: the formats, those that the configuration leaves open chosen so that the sum is met; None as configured.
        factor: what remains between the sum and the configuration.
    """

    stored: Quantization | None = None
    factor: float = 1.0

    def part_bytes(self, model: ModelGeometry, parallel: Parallel, stage: int, *, mtp: bool) -> Mapping[Part, int]:
        """Return the bytes of each part as the configuration gives them, times the factor."""
        counted = model if self.stored is None else model.model_copy(update={"stored": self.stored})
        parts = part_bytes(counted, parallel, stage, mtp=mtp)
        return parts if self.factor == 1 else {part: ceil(size * self.factor) for part, size in parts.items()}


@lru_cache(maxsize=256)
def configured_size(model: ModelGeometry, *, mtp: bool = True) -> Size:
    """Return the bytes of the checkpoint as its configuration gives them, with or without the MTP layers."""
    size = Size(0, 0)
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=mtp):
        size = size.plus(stored_size(weight, model, layer=layer))
    return size


def disagreement(total: int, model: ModelGeometry, *, where: str) -> str | None:
    """Return what to say where the files' own sum is more than 1 % off every size that the configuration allows."""
    size = configured_size(model)
    if size.low * (1 - _TOLERANCE) <= total <= size.high * (1 + _TOLERANCE):
        return None
    said = f"{size.low / 1e9:.0f} GB" if size.low == size.high else f"{size.low / 1e9:.0f} to {size.high / 1e9:.0f} GB"
    return f"{where} hold {total / 1e9:.0f} GB, and config.json describes {said}: the files are believed"


def checkpoint_from_total(total: int, model: ModelGeometry) -> IndexedCheckpoint:
    """Return the checkpoint whose tensors have `total` bytes together, as metadata.total_size of its index says."""
    size = min(_with_and_without_mtp(model), key=lambda one: max(0, total - one.high, one.low - total))
    if size.low < size.high and model.stored is not None and not model.stored.is_known:
        share = min(1.0, max(0.0, (total - size.low) / (size.high - size.low)))
        size_there = size.low + share * (size.high - size.low)
        stored, label = model.stored.within(share), "estimated"
    else:
        size_there, stored, label = float(size.high), None, "exact"
    close = abs(total - size_there) <= _TOLERANCE * size_there
    said = disagreement(total, model, where="the tensors that the index names")
    return IndexedCheckpoint(
        bytes={},
        disk_bytes=total,
        unrecognised=(),
        label="exact" if close and label == "exact" else "estimated",
        notes=(said,) if said else (),
        stored=stored,
        factor=1.0 if close else total / size_there,
    )


def _with_and_without_mtp(model: ModelGeometry) -> list[Size]:
    """Return the sizes that the checkpoint can have; MTP layers that it may lack are counted, or are not."""
    whole, without = configured_size(model), configured_size(model, mtp=False)
    mtp = whole.high - without.high
    if not mtp or not may_lack(model, model.num_hidden_layers):
        return [whole]
    return [without, Size(without.low + mtp, whole.high)]


def checkpoint_of(tensors: Iterable[StoredTensor], model: ModelGeometry) -> Checkpoint:
    """Sort a checkpoint's tensors by layer, part and sharding."""
    sizes: Counter[Group] = Counter()
    disk, unrecognised = 0, []
    known = _Known(model)
    for tensor in tensors:
        disk += tensor.bytes
        layer, rest = _place(tensor.name, model)
        if layer is not None and layer >= model.num_hidden_layers and rest.startswith(_MTP_COPIES):
            continue
        weight = known.find(layer, rest)
        if weight is None:
            unrecognised.append(tensor.name)
            group = Group(layer, "norms", "replicated")
        else:
            group = Group(layer, weight.part, weight.sharding)
        sizes[group] += _resident(tensor, weight)
    said = disagreement(disk, model, where="the safetensors files")
    return Checkpoint(dict(sizes), disk, tuple(unrecognised), notes=(said,) if said else ())


def _place(name: str, model: ModelGeometry) -> tuple[int | None, str]:
    """Return (layer, name within it) of a tensor; DeepSeek-V4 counts its draft layers apart, as `mtp.0`."""
    match = _LAYER.match(name)
    if match is None:
        return None, _OUTSIDE.sub("", name)
    first = model.num_hidden_layers if match.group(1) == "mtp" else 0
    return first + int(match.group(2)), match.group(3)


def _resident(tensor: StoredTensor, weight: Weight | None) -> int:
    """Return a tensor's bytes in memory; a weight that vLLM widens to bfloat16 loses its scales."""
    if weight is None or not weight.widened:
        return tensor.bytes
    return prod(weight.shape) * 2 if tensor.name.endswith(_VALUES) else 0


class _Known:
    """Looks a tensor's module up among the weights of its layer, whatever the suffix (.weight, .weight_scale_inv)."""

    def __init__(self, model: ModelGeometry) -> None:
        self._model = model
        self._outside = _by_module((embedding_weight(model), *tower_weights(model), *head_weights(model)))
        self._layers: dict[int, dict[str, Weight]] = {}

    def find(self, layer: int | None, rest: str) -> Weight | None:
        modules = self._outside if layer is None else self._layer(layer)
        name = _EXPERT.sub("experts.", rest)
        while name:
            if name in modules:
                return modules[name]
            name = name.rpartition(".")[0]
        return None

    def _layer(self, layer: int) -> dict[str, Weight]:
        if layer not in self._layers:
            extra = mtp_weights(self._model, layer) if layer >= self._model.num_hidden_layers else ()
            self._layers[layer] = _by_module((*layer_weights(self._model, layer), *extra))
        return self._layers[layer]


def _by_module(weights: Iterable[Weight]) -> dict[str, Weight]:
    return {weight.name.removesuffix(".weight").removesuffix(".bias"): weight for weight in weights}


def _ranks(group: Group, parallel: Parallel) -> int:
    if group.sharding == "experts":
        return parallel.expert_ranks
    if group.sharding == "replicated" or (group.part == "shared experts" and parallel.replicates_shared_experts):
        return 1
    return parallel.tensor
