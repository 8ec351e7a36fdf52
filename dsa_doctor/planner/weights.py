"""Every weight of a model, named and shaped as in its checkpoint, with how vLLM spreads it over ranks.

The layers themselves are described in `families`, one file per family.
"""

from collections.abc import Iterator

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.families import family_of
from dsa_doctor.planner.families.base import Kind, Part, Sharding, Weight, has_indexer

__all__ = [
    "Kind",
    "Part",
    "Sharding",
    "Weight",
    "embedding_weight",
    "has_indexer",
    "head_weights",
    "layer_weights",
    "mtp_weights",
    "parameter_count",
    "tower_weights",
]


def layer_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield the weights of one decoder layer; `layer` counts from 0, draft layers follow the last one."""
    return family_of(model).layer_weights(model, layer)


def mtp_weights(model: ModelGeometry, layer: int | None = None) -> Iterator[Weight]:
    """Yield what a draft layer adds to a decoder layer; the first draft layer where none is named."""
    return family_of(model).draft_weights(model, model.num_hidden_layers if layer is None else layer)


def embedding_weight(model: ModelGeometry) -> Weight:
    """Return the token embedding."""
    name = "embed.weight" if model.compression is not None else "embed_tokens.weight"
    return Weight(name, "embedding", (model.vocab_size, model.hidden_size), "vocabulary", "plain")


def tower_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield what stands before the first layer beside the embedding: a vision tower."""
    return family_of(model).tower_weights(model)


def head_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield what follows the last layer: norm, output head."""
    return family_of(model).head_weights(model)


def parameter_count(model: ModelGeometry, *, mtp: bool = False) -> int:
    """Return the number of parameters, biases of the router included; `mtp` adds the draft layers' own ones."""
    total = embedding_weight(model).count
    total += sum(one.count for one in (*tower_weights(model), *head_weights(model)))
    layers = model.num_hidden_layers + (model.draft_layers if mtp else 0)
    total += sum(one.count for layer in range(layers) for one in layer_weights(model, layer))
    for layer in range(model.num_hidden_layers, layers):
        total += sum(one.count for one in mtp_weights(model, layer))
    return total
