"""Every weight of a model, named and shaped as in its checkpoint, with how vLLM spreads it over ranks.

Source of the shapes: transformers' GlmMoeDsaForCausalLM and DeepseekV32ForCausalLM, which the tests compare name by
name. Source of the sharding: vLLM's model_executor/models/deepseek_v2.py and models/deepseek_v32 (identical there):
down projections and the whole indexer are replicated, up and output projections are split by heads, MLPs by their
intermediate width, routed experts over every rank of the layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from dsa_doctor.catalog.geometry import ModelGeometry

Part = Literal[
    "embedding",
    "attention",
    "indexer",
    "dense MLP",
    "router",
    "routed experts",
    "shared experts",
    "norms",
    "output head",
    "MTP",
]
Sharding = Literal["replicated", "tensor", "vocabulary", "experts"]
Kind = Literal["linear", "plain", "float32"]


@dataclass(frozen=True)
class Weight:
    """One weight, or the same weight of every expert.

    Attributes:
        name: as in transformers' state dict, without the layer prefix.
        part: what it belongs to.
        shape: of one copy.
        sharding: how vLLM spreads it over the ranks of its pipeline stage.
        kind: linear weights are quantised in a quantised checkpoint; plain ones stay bfloat16; float32 ones are small.
        copies: number of experts that have it; 1 otherwise.
        widened: whether vLLM keeps it in bfloat16 although the checkpoint quantises it.
    """

    name: str
    part: Part
    shape: tuple[int, ...]
    sharding: Sharding
    kind: Kind
    copies: int = 1
    widened: bool = False

    @property
    def count(self) -> int:
        """Return the number of parameters, all copies together."""
        return self.copies * prod(self.shape)


def has_indexer(model: ModelGeometry, layer: int) -> bool:
    """Whether a layer runs an indexer of its own; MTP layers (past the last one) always do."""
    return model.uses_dsa and layer not in model.shared_indexer_layer_ids


def is_sparse_mlp(model: ModelGeometry, layer: int) -> bool:
    """Whether a layer's MLP is a mixture of experts."""
    return model.n_routed_experts > 0 and layer >= model.first_k_dense_replace


def layer_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield the weights of one decoder layer; `layer` counts from 0, MTP layers follow the last one."""
    hidden = model.hidden_size
    yield from _mla_weights(model) if model.kv_lora_rank else _attention_weights(model)
    if has_indexer(model, layer):
        yield from _indexer_weights(model)
    if is_sparse_mlp(model, layer):
        yield from _expert_weights(model)
    else:
        yield from _mlp_weights("mlp.", "dense MLP", hidden, model.intermediate_size)
    yield Weight("input_layernorm.weight", "norms", (hidden,), "replicated", "plain")
    yield Weight("post_attention_layernorm.weight", "norms", (hidden,), "replicated", "plain")


def mtp_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield what one multi-token-prediction layer adds to a decoder layer; vLLM shares embedding and head with it."""
    hidden = model.hidden_size
    yield Weight("eh_proj.weight", "MTP", (hidden, 2 * hidden), "replicated", "plain")
    for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight"):
        yield Weight(name, "MTP", (hidden,), "replicated", "plain")


def embedding_weight(model: ModelGeometry) -> Weight:
    """Return the token embedding."""
    shape = (model.vocab_size, model.hidden_size)
    return Weight("embed_tokens.weight", "embedding", shape, "vocabulary", "plain")


def head_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield the final norm and the output head, which models with tied embeddings lack."""
    yield Weight("norm.weight", "norms", (model.hidden_size,), "replicated", "plain")
    if not model.tie_word_embeddings:
        shape = (model.vocab_size, model.hidden_size)
        yield Weight("lm_head.weight", "output head", shape, "vocabulary", "plain")


def parameter_count(model: ModelGeometry, *, mtp: bool = False) -> int:
    """Return the number of parameters, biases of the router included; `mtp` adds the MTP layers' own ones."""
    total = embedding_weight(model).count + sum(one.count for one in head_weights(model))
    layers = model.num_hidden_layers + (model.num_nextn_predict_layers if mtp else 0)
    total += sum(one.count for layer in range(layers) for one in layer_weights(model, layer))
    if mtp:
        total += model.num_nextn_predict_layers * sum(one.count for one in mtp_weights(model))
    return total


def _mla_weights(model: ModelGeometry) -> Iterator[Weight]:
    hidden, heads, rope = model.hidden_size, model.num_attention_heads, model.qk_rope_head_dim
    query = heads * (model.qk_nope_head_dim + rope)
    prefix = "self_attn."
    if model.q_lora_rank:
        yield Weight(f"{prefix}q_a_proj.weight", "attention", (model.q_lora_rank, hidden), "replicated", "linear")
        yield Weight(f"{prefix}q_a_layernorm.weight", "norms", (model.q_lora_rank,), "replicated", "plain")
        yield Weight(f"{prefix}q_b_proj.weight", "attention", (query, model.q_lora_rank), "tensor", "linear")
    else:
        yield Weight(f"{prefix}q_proj.weight", "attention", (query, hidden), "tensor", "linear")
    latent = (model.kv_lora_rank + rope, hidden)
    yield Weight(f"{prefix}kv_a_proj_with_mqa.weight", "attention", latent, "replicated", "linear")
    yield Weight(f"{prefix}kv_a_layernorm.weight", "norms", (model.kv_lora_rank,), "replicated", "plain")
    expanded = (heads * (model.qk_nope_head_dim + model.v_head_dim), model.kv_lora_rank)
    yield Weight(f"{prefix}kv_b_proj.weight", "attention", expanded, "tensor", "linear")
    yield Weight(f"{prefix}o_proj.weight", "attention", (hidden, heads * model.v_head_dim), "tensor", "linear")


def _attention_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield ordinary grouped-query attention, without biases."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    width = model.head_dim or hidden // heads
    kv = (model.num_key_value_heads or heads) * width
    for name, shape in (
        ("q_proj", (heads * width, hidden)),
        ("k_proj", (kv, hidden)),
        ("v_proj", (kv, hidden)),
        ("o_proj", (hidden, heads * width)),
    ):
        yield Weight(f"self_attn.{name}.weight", "attention", shape, "tensor", "linear")


def _indexer_weights(model: ModelGeometry) -> Iterator[Weight]:
    hidden, width = model.hidden_size, model.index_head_dim
    prefix = "self_attn.indexer."
    queries = (model.index_n_heads * width, model.q_lora_rank or hidden)
    yield Weight(f"{prefix}wq_b.weight", "indexer", queries, "replicated", "linear")
    yield Weight(f"{prefix}wk.weight", "indexer", (width, hidden), "replicated", "linear", widened=True)
    yield Weight(f"{prefix}k_norm.weight", "indexer", (width,), "replicated", "float32")
    yield Weight(f"{prefix}k_norm.bias", "indexer", (width,), "replicated", "float32")
    yield Weight(f"{prefix}weights_proj.weight", "indexer", (model.index_n_heads, hidden), "replicated", "plain")


def _expert_weights(model: ModelGeometry) -> Iterator[Weight]:
    hidden, experts = model.hidden_size, model.n_routed_experts
    yield Weight("mlp.gate.weight", "router", (experts, hidden), "replicated", "plain")
    if model.uses_dsa:
        yield Weight("mlp.gate.e_score_correction_bias", "router", (experts,), "replicated", "float32")
    for one in _mlp_weights("mlp.experts.", "routed experts", hidden, model.moe_intermediate_size):
        yield Weight(one.name, one.part, one.shape, "experts", one.kind, copies=experts)
    if model.n_shared_experts:
        width = model.moe_intermediate_size * model.n_shared_experts
        yield from _mlp_weights("mlp.shared_experts.", "shared experts", hidden, width)


def _mlp_weights(prefix: str, part: Part, hidden: int, width: int) -> Iterator[Weight]:
    for name in ("gate_proj", "up_proj"):
        yield Weight(f"{prefix}{name}.weight", part, (width, hidden), "tensor", "linear")
    yield Weight(f"{prefix}down_proj.weight", part, (hidden, width), "tensor", "linear")
