"""How vLLM spreads a model over GPUs, and the bytes of the weights on one of them."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.facts.observation import Fact
from dsa_doctor.planner.families import family_of
from dsa_doctor.planner.families.base import pipeline_layers
from dsa_doctor.planner.storage import resident_bytes
from dsa_doctor.planner.weights import (
    Part,
    Weight,
    embedding_weight,
    head_weights,
    layer_weights,
    mtp_weights,
    tower_weights,
)

__all__ = [
    "HUGE_PAGES",
    "Parallel",
    "TablePlace",
    "part_bytes",
    "pipeline_layers",
    "problems_of",
    "rank_bytes",
    "stage_weights",
    "table_bytes",
]

TablePlace = Literal["pinned", "huge pages", "GPU"]
"""Where n-gram tables lie: pinned host memory, which is vLLM's default, huge pages of the host, or the GPU's memory."""
HUGE_PAGES = "--engram-config '{\"use_thp\": true}'"

_VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this before it splits it."""


class Parallel(Fact):
    """Parallel sizes, named as vLLM's options."""

    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    data: int = Field(default=1, ge=1)
    expert: bool = False
    """--enable-expert-parallel: whole experts per rank instead of slices of every expert."""

    @property
    def world_size(self) -> int:
        """Return the number of GPUs."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_ranks(self) -> int:
        """Return over how many GPUs of a pipeline stage the routed experts are spread."""
        return self.tensor * self.data

    @property
    def replicates_shared_experts(self) -> bool:
        """Whether vLLM runs the MoE layers sequence-parallel, with whole shared experts on each rank."""
        return self.expert and self.tensor > 1 and self.data > 1


def stage_weights(
    model: ModelGeometry, parallel: Parallel, stage: int, *, mtp: bool
) -> Iterator[tuple[int | None, Weight]]:
    """Yield (layer, weight) for each weight of a pipeline stage; layer is None outside the decoder layers."""
    first, last = stage == 0, stage == parallel.pipeline - 1
    mtp_layers = model.draft_layers if mtp and last else 0
    if first or (last and (model.tie_word_embeddings or mtp_layers)):
        yield None, embedding_weight(model)
    if first:
        for weight in tower_weights(model):
            yield None, weight
    for layer in pipeline_layers(model.num_hidden_layers, parallel.pipeline)[stage]:
        for weight in layer_weights(model, layer):
            yield layer, weight
    if last:
        for weight in head_weights(model):
            yield None, weight
    for layer in range(model.num_hidden_layers, model.num_hidden_layers + mtp_layers):
        for weight in (*layer_weights(model, layer), *mtp_weights(model, layer)):
            yield layer, weight


def rank_bytes(weight: Weight, model: ModelGeometry, parallel: Parallel, *, layer: int | None = None) -> int:
    """Return the bytes of a weight on the fullest GPU of its stage."""
    copies, shape = weight.copies, weight.shape
    if weight.sharding == "host":
        return 0
    if weight.sharding == "vocabulary":
        padded = -(-shape[0] // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
        shape = (-(-padded // parallel.tensor), *shape[1:])
    elif weight.sharding == "experts" and parallel.expert:
        copies = -(-copies // parallel.expert_ranks)
    elif weight.sharding == "experts":
        shape = _split(weight, parallel.expert_ranks)
    elif weight.sharding == "tensor":
        if weight.part == "shared experts" and parallel.replicates_shared_experts:
            return copies * resident_bytes(weight, shape, model, layer=layer)
        ranks = parallel.tensor
        if weight.name.endswith((".k_proj.weight", ".v_proj.weight")):
            ranks = min(ranks, model.num_key_value_heads or ranks)
        shape = _split(weight, ranks)
    return copies * resident_bytes(weight, shape, model, layer=layer)


@lru_cache(maxsize=1024)
def table_bytes(model: ModelGeometry, parallel: Parallel, stage: int, place: TablePlace = "pinned") -> int:
    """Return the memory that one rank of a stage needs for n-gram tables, wherever it is.

    The tables are spread over the tensor-parallel ranks by whole columns, values and scales in an allocation each, and
    torch pins memory in powers of two (CachingHostAllocator). Huge pages, a GPU, and the file that data-parallel copies
    of a node share are of the size that is needed.
    """
    if model.engram is None:
        return 0
    size = 0
    for layer, weight in stage_weights(model, parallel, stage, mtp=False):
        if weight.sharding == "host":
            rows = weight.shape[0] * -(-model.engram.columns // parallel.tensor) // model.engram.columns
            values = rows * weight.shape[1]
            scales = resident_bytes(weight, (rows, weight.shape[1]), model, layer=layer) - values
            rounded = place == "pinned" and parallel.data == 1
            size += sum(1 << (one - 1).bit_length() if rounded else one for one in (values, scales))
    return size


@lru_cache(maxsize=256)
def part_bytes(model: ModelGeometry, parallel: Parallel, stage: int, *, mtp: bool) -> Mapping[Part, int]:
    """Return the bytes of each part of the weights on the fullest GPU of a stage; MTP layers count as one part."""
    parts: dict[Part, int] = {}
    for layer, weight in stage_weights(model, parallel, stage, mtp=mtp):
        if weight.sharding == "host":
            continue
        part: Part = "MTP" if layer is not None and layer >= model.num_hidden_layers else weight.part
        parts[part] = parts.get(part, 0) + rank_bytes(weight, model, parallel, layer=layer)
    return MappingProxyType(parts)


def problems_of(model: ModelGeometry, parallel: Parallel) -> tuple[str, ...]:
    """Return why vLLM would refuse these parallel sizes for this model; empty where it would not."""
    problems = []
    if model.num_attention_heads % parallel.tensor:
        problems.append(f"--tensor-parallel-size {parallel.tensor} does not divide {model.num_attention_heads} heads")
    if model.num_hidden_layers < parallel.pipeline:
        problems.append(f"--pipeline-parallel-size {parallel.pipeline} exceeds {model.num_hidden_layers} layers")
    slices = 1 if parallel.expert else parallel.expert_ranks
    block = model.weight_block_size[0] if model.weight_block_size and model.quantization == "fp8" else 1
    dense = model.intermediate_size if model.dense_layer_ids or not model.n_routed_experts else 0
    for what, width, ranks, unit in (
        (
            "moe_intermediate_size",
            model.moe_intermediate_size if model.n_routed_experts else 0,
            slices,
            _unit(model, block),
        ),
        ("intermediate_size", 0 if model.compression is not None else dense, parallel.tensor, block),
    ):
        if width % (ranks * unit):
            problems.append(f"{what} {width} over {ranks} ranks is not a multiple of {unit} (one block of scales)")
    problems += family_of(model).problems(model, parallel.tensor, parallel.pipeline)
    return tuple(problems)


def _unit(model: ModelGeometry, block: int) -> int:
    """Return the columns of an expert that share a scale: those of FP4 experts where a DeepSeek-V4 model has them."""
    if model.compression is None or model.stored is None:
        return block
    form = model.stored.format_of("model.layers.0.ffn.experts.0.w1")
    return form.group_size if form is not None and form.group_size else block


def _split(weight: Weight, ranks: int) -> tuple[int, ...]:
    """Return the shape of one slice."""
    if len(weight.shape) == 1:
        return (-(-weight.shape[0] // ranks),)
    rows, columns = weight.shape
    return (rows, -(-columns // ranks)) if weight.split == "columns" else (-(-rows // ranks), columns)
