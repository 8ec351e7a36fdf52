"""MLA throughout: DeepSeek-V3.2 and GLM-5 to 5.3, and models with ordinary grouped-query attention.

Shapes: transformers' GlmMoeDsaForCausalLM and DeepseekV32ForCausalLM, which the tests compare name by name. Sharding:
vLLM's model_executor/models/deepseek_v2.py and models/deepseek_v32 (identical there): down projections and the whole
indexer are replicated, up and output projections are split by heads, MLPs by their intermediate width, routed experts
over every rank of the layer. Cache: MLAAttentionSpec and DeepseekV32IndexerCache.
"""

from collections.abc import Iterator

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.families.base import (
    Cache,
    CacheOptions,
    Family,
    Kind,
    Weight,
    experts,
    has_indexer,
    mlp,
    no_problems,
    no_weights,
    norm,
)
from dsa_doctor.planner.rows import index_row_bytes, kv_layout, row_bytes

_NAMES = ("gate_proj", "up_proj", "down_proj")


def layer_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield the weights of one decoder layer."""
    yield from mla_weights(model) if model.kv_lora_rank else _attention_weights(model)
    if has_indexer(model, layer):
        yield from indexer_weights(model)
    yield from feed_forward_weights(model, layer)
    yield norm("input_layernorm.weight", model.hidden_size)
    yield norm("post_attention_layernorm.weight", model.hidden_size)


def draft_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield what one multi-token-prediction layer adds to a decoder layer; vLLM shares embedding and head with it."""
    del layer
    hidden = model.hidden_size
    yield Weight("eh_proj.weight", "MTP", (hidden, 2 * hidden), "replicated", "plain")
    for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight"):
        yield norm(name, hidden, "MTP")


def head_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield the final norm and the output head, which models with tied embeddings lack."""
    yield norm("norm.weight", model.hidden_size)
    if not model.tie_word_embeddings:
        yield Weight("lm_head.weight", "output head", (model.vocab_size, model.hidden_size), "vocabulary", "plain")


def caches(model: ModelGeometry, layer: int, options: CacheOptions) -> Iterator[Cache]:
    """Yield the caches of one layer: MLA's one row, which no rank splits, and the indexer's keys."""
    if not model.kv_lora_rank:
        width = model.head_dim or model.hidden_size // model.num_attention_heads
        heads = -(-(model.num_key_value_heads or model.num_attention_heads) // options.tensor)
        size = 1 if options.dtype.startswith("fp8") else 2
        yield Cache("rows", options.block, options.block * 2 * heads * width * size)
        return
    row = row_bytes(model.head_size, kv_layout(options.dtype, options.backend))
    yield Cache("rows", options.block, options.block * row)
    if has_indexer(model, layer):
        yield Cache("index", options.block, options.block * index_row_bytes(model.index_head_dim))


def feed_forward_weights(model: ModelGeometry, layer: int) -> Iterator[Weight]:
    """Yield a layer's MLP, dense or of experts."""
    hidden = model.hidden_size
    if not model.is_sparse(layer):
        yield from mlp("mlp.", "dense MLP", hidden, model.intermediate_size, _NAMES)
        return
    count = model.n_routed_experts
    yield Weight("mlp.gate.weight", "router", (count, hidden), "replicated", "plain")
    if model.uses_dsa:
        yield Weight("mlp.gate.e_score_correction_bias", "router", (count,), "replicated", "float32")
    yield from experts("mlp.", count, hidden, model.moe_intermediate_size, _NAMES)
    if model.n_shared_experts:
        width = model.moe_intermediate_size * model.n_shared_experts
        yield from mlp("mlp.shared_experts.", "shared experts", hidden, width, _NAMES)


def mla_weights(model: ModelGeometry, *, linear: Kind = "linear") -> Iterator[Weight]:
    """Yield multi-head latent attention; `linear` is plain where vLLM keeps it in bfloat16 whatever the checkpoint."""
    hidden, heads, rope = model.hidden_size, model.num_attention_heads, model.qk_rope_head_dim
    query = heads * (model.qk_nope_head_dim + rope)
    prefix = "self_attn."
    if model.q_lora_rank:
        yield Weight(f"{prefix}q_a_proj.weight", "attention", (model.q_lora_rank, hidden), "replicated", linear)
        yield norm(f"{prefix}q_a_layernorm.weight", model.q_lora_rank)
        yield Weight(f"{prefix}q_b_proj.weight", "attention", (query, model.q_lora_rank), "tensor", linear)
    else:
        yield Weight(f"{prefix}q_proj.weight", "attention", (query, hidden), "tensor", linear)
    latent = (model.kv_lora_rank + rope, hidden)
    yield Weight(f"{prefix}kv_a_proj_with_mqa.weight", "attention", latent, "replicated", linear)
    yield norm(f"{prefix}kv_a_layernorm.weight", model.kv_lora_rank)
    expanded = (heads * (model.qk_nope_head_dim + model.v_head_dim), model.kv_lora_rank)
    yield Weight(f"{prefix}kv_b_proj.weight", "attention", expanded, "tensor", linear)
    output = (hidden, heads * model.v_head_dim)
    yield Weight(f"{prefix}o_proj.weight", "attention", output, "tensor", linear, split="columns")


def indexer_weights(model: ModelGeometry, *, linear: Kind = "linear") -> Iterator[Weight]:
    """Yield the lightning indexer, whole on every rank."""
    hidden, width = model.hidden_size, model.index_head_dim
    prefix = "self_attn.indexer."
    queries = (model.index_n_heads * width, model.q_lora_rank or hidden)
    yield Weight(f"{prefix}wq_b.weight", "indexer", queries, "replicated", linear)
    yield Weight(f"{prefix}wk.weight", "indexer", (width, hidden), "replicated", linear, widened=True)
    yield Weight(f"{prefix}k_norm.weight", "indexer", (width,), "replicated", "float32")
    yield Weight(f"{prefix}k_norm.bias", "indexer", (width,), "replicated", "float32")
    yield Weight(f"{prefix}weights_proj.weight", "indexer", (model.index_n_heads, hidden), "replicated", "plain")


def _attention_weights(model: ModelGeometry) -> Iterator[Weight]:
    """Yield ordinary grouped-query attention, without biases."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    width = model.head_dim or hidden // heads
    kv = (model.num_key_value_heads or heads) * width
    for name, rows in (("q_proj", heads * width), ("k_proj", kv), ("v_proj", kv)):
        yield Weight(f"self_attn.{name}.weight", "attention", (rows, hidden), "tensor", "linear")
    output = (hidden, heads * width)
    yield Weight("self_attn.o_proj.weight", "attention", output, "tensor", "linear", split="columns")


FAMILY = Family(layer_weights, draft_weights, no_weights, head_weights, caches, no_problems)
