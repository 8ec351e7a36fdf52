"""How vLLM spreads a model over GPUs, and the bytes of the weights on one of them."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from pydantic import Field

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.facts.observation import Fact
from dsa_doctor.planner.storage import resident_bytes
from dsa_doctor.planner.weights import Part, Weight, embedding_weight, head_weights, layer_weights, mtp_weights

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


def stage_weights(
    model: ModelGeometry, parallel: Parallel, stage: int, *, mtp: bool
) -> Iterator[tuple[int | None, Weight]]:
    """Yield (layer, weight) for each weight of a pipeline stage; layer is None outside the decoder layers."""
    first, last = stage == 0, stage == parallel.pipeline - 1
    mtp_layers = model.num_nextn_predict_layers if mtp and last else 0
    if first or (last and (model.tie_word_embeddings or mtp_layers)):
        yield None, embedding_weight(model)
    for layer in pipeline_layers(model.num_hidden_layers, parallel.pipeline)[stage]:
        for weight in layer_weights(model, layer):
            yield layer, weight
    if last:
        for weight in head_weights(model):
            yield None, weight
    for layer in range(model.num_hidden_layers, model.num_hidden_layers + mtp_layers):
        for weight in (*layer_weights(model, layer), *mtp_weights(model)):
            yield layer, weight


def rank_bytes(weight: Weight, model: ModelGeometry, parallel: Parallel, *, layer: int | None = None) -> int:
    """Return the bytes of a weight on the fullest GPU of its stage."""
    copies, shape = weight.copies, weight.shape
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


@lru_cache(maxsize=256)
def part_bytes(model: ModelGeometry, parallel: Parallel, stage: int, *, mtp: bool) -> Mapping[Part, int]:
    """Return the bytes of each part of the weights on the fullest GPU of a stage; MTP layers count as one part."""
    parts: dict[Part, int] = {}
    for layer, weight in stage_weights(model, parallel, stage, mtp=mtp):
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
    for what, width, ranks in (
        ("moe_intermediate_size", model.moe_intermediate_size if model.n_routed_experts else 0, slices),
        ("intermediate_size", model.intermediate_size, parallel.tensor),
    ):
        block = model.weight_block_size[0] if model.weight_block_size and model.quantization == "fp8" else 1
        if width % (ranks * block):
            problems.append(f"{what} {width} over {ranks} ranks is not a multiple of {block} (one FP8 scale block)")
    return tuple(problems)


def _split(weight: Weight, ranks: int) -> tuple[int, ...]:
    """Return the shape of one slice: output rows are split, input columns of down and output projections."""
    rows, columns = weight.shape
    if weight.name.endswith(("down_proj.weight", "o_proj.weight")):
        return rows, -(-columns // ranks)
    return -(-rows // ranks), columns
