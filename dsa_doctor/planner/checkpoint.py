"""A local checkpoint's tensors, sorted by how vLLM spreads them: exact bytes whatever the quantisation."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.headers import StoredTensor
from dsa_doctor.planner.parallel import Parallel, pipeline_layers
from dsa_doctor.planner.weights import (
    Part,
    Sharding,
    Weight,
    embedding_weight,
    head_weights,
    layer_weights,
    mtp_weights,
)

_LAYER = re.compile(r"^(?:model\.|language_model\.)*layers\.(\d+)\.(.+)$")
_EXPERT = re.compile(r"\bexperts\.\d+\.")
_MTP_COPIES = ("embed_tokens.", "shared_head.head.")
"""Copies of the embedding and the head that checkpoints keep in MTP layers and vLLM does not load."""


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
    """

    bytes: Mapping[Group, int]
    disk_bytes: int
    unrecognised: tuple[str, ...]

    def part_bytes(self, model: ModelGeometry, parallel: Parallel, stage: int, *, mtp: bool) -> Mapping[Part, int]:
        """Return the bytes of each part on the fullest GPU of a stage, as `parallel.part_bytes` counts them."""
        layers = pipeline_layers(model.num_hidden_layers, parallel.pipeline)[stage]
        first, last = stage == 0, stage == parallel.pipeline - 1
        parts: dict[Part, int] = {}
        for group, size in self.bytes.items():
            part = group.part
            if group.layer is None:
                on_stage = first if part == "embedding" else last
                on_stage |= part == "embedding" and last and (mtp or model.tie_word_embeddings)
            elif group.layer >= model.num_hidden_layers:
                on_stage, part = last and mtp, "MTP"
            else:
                on_stage = group.layer in layers
            if on_stage:
                parts[part] = parts.get(part, 0) + -(-size // _ranks(group, parallel))
        return parts


def checkpoint_of(tensors: Iterable[StoredTensor], model: ModelGeometry) -> Checkpoint:
    """Sort a checkpoint's tensors by layer, part and sharding."""
    sizes: Counter[Group] = Counter()
    disk, unrecognised = 0, []
    known = _Known(model)
    for tensor in tensors:
        disk += tensor.bytes
        match = _LAYER.match(tensor.name)
        layer = int(match.group(1)) if match else None
        rest = match.group(2) if match else tensor.name.removeprefix("model.")
        if layer is not None and layer >= model.num_hidden_layers and rest.startswith(_MTP_COPIES):
            continue
        weight = known.find(layer, rest)
        if weight is None:
            unrecognised.append(tensor.name)
            group = Group(layer, "norms", "replicated")
        else:
            group = Group(layer, weight.part, weight.sharding)
        sizes[group] += _resident(tensor, widened=weight is not None and weight.widened)
    return Checkpoint(dict(sizes), disk, tuple(unrecognised))


def _resident(tensor: StoredTensor, *, widened: bool) -> int:
    """Return a tensor's bytes in memory; one that vLLM widens to bfloat16 loses its scales."""
    if not widened:
        return tensor.bytes
    return prod(tensor.shape) * 2 if tensor.name.endswith(".weight") else 0


class _Known:
    """Looks a tensor's module up among the weights of its layer, whatever the suffix (.weight, .weight_scale_inv)."""

    def __init__(self, model: ModelGeometry) -> None:
        self._model = model
        self._outside = _by_module((embedding_weight(model), *head_weights(model)))
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
            extra = mtp_weights(self._model) if layer >= self._model.num_hidden_layers else ()
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
