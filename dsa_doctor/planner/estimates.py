"""What vLLM needs beside weights and KV cache. Every figure here is an estimate and is labelled so in the plan.

They err upwards. Little of them is certain: vLLM takes its first snapshot after the CUDA context and NCCL exist, so
that neither counts against its budget (v1/worker/gpu_worker.py, init_device; the rest of the card must hold them), and
measures graphs and activations itself. A plan that only they speak against is therefore not a misfit.

The terms follow the buffers that vLLM's profile run touches (model_executor/layers/sparse_attn_indexer.py,
fused_moe, v1/attention/backends/mla/indexer.py, v1/sample): named, so that a reader can check each against a log.
"""

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.parallel import Parallel

GIB = 2**30

_DRIVER = int(0.75 * GIB)
_DRIVER_SHARE = 0.02
"""torch has less than the driver reports: by 0.75 GiB of 80 (A100), 0.6 of 44.99 (L40S), 0.4 of 23.99 (4090)."""

_CONTEXT = int(0.8 * GIB)
_COLLECTIVES = int(1.2 * GIB)
_GRAPHS = int(1.5 * GIB)
_HIDDEN_COPIES = 6
_LOGITS_COPIES = 2
_INDEXER_LOGITS = 512 * 2**20
"""VLLM_SPARSE_INDEXER_MAX_LOGITS_MB, vLLM's default."""
_GATHER_TOKENS = 40
"""Indexer rows that vLLM's prefill workspace holds per token of --max-model-len."""
_MLA_CHUNK_TOKENS = 64 * 1024
_V4_PREFILL_REQUESTS = 4
"""Requests whose compressed rows DeepSeek-V4's FlashMLA prefill gathers at once (PREFILL_CHUNK_SIZE)."""
_DEFAULT_EXPERTS_PER_TOKEN = 8


def usable_bytes(reported: int) -> int:
    """Return what torch can use of the memory that a GPU's driver reports."""
    return reported - min(_DRIVER, int(reported * _DRIVER_SHARE))


def fixed_bytes(parallel: Parallel) -> int:
    """Return the CUDA context and, with several GPUs, the buffers of the collectives."""
    return _CONTEXT + (_COLLECTIVES if parallel.world_size > 1 else 0)


def graph_bytes(*, eager: bool) -> int:
    """Return the CUDA graphs' own memory."""
    return 0 if eager else _GRAPHS


def activation_bytes(
    model: ModelGeometry, parallel: Parallel, *, batched_tokens: int, sequences: int, max_model_len: int
) -> int:
    """Return the peak of temporary memory in vLLM's profile run: hidden states, experts, attention, indexer, logits."""
    hidden = _HIDDEN_COPIES * batched_tokens * model.hidden_size * 2
    experts = 0
    if model.n_routed_experts:
        width = max(2 * model.moe_intermediate_size // parallel.expert_ranks, model.hidden_size)
        experts = batched_tokens * (model.num_experts_per_tok or _DEFAULT_EXPERTS_PER_TOKEN) * width * 2
    heads = -(-model.num_attention_heads // parallel.tensor)
    attention = 2 * batched_tokens * heads * max(model.head_size, model.head_dim, 1) * 2
    indexer = 0
    if model.uses_dsa:
        per_head = model.qk_nope_head_dim + model.v_head_dim
        attention += min(_MLA_CHUNK_TOKENS, 8 * max_model_len) * heads * per_head * 2
        indexer = (
            _INDEXER_LOGITS
            + batched_tokens * (model.index_topk * 4 + model.index_n_heads * model.index_head_dim)
            + _GATHER_TOKENS * (max_model_len // _tokens_per_key(model)) * (model.index_head_dim + 4)
        )
    compression = model.compression
    if compression is not None and compression.kv_sources is None:
        gathered = max_model_len // _tokens_per_key(model) + compression.window + batched_tokens
        attention += _V4_PREFILL_REQUESTS * gathered * model.head_dim * 2
    logits = _LOGITS_COPIES * sequences * model.vocab_size * 4
    return max(hidden + experts + attention + indexer, hidden + logits)


def certain_activation_bytes(model: ModelGeometry, *, batched_tokens: int, max_model_len: int) -> int:
    """Return the part of `activation_bytes` that is certain: hidden states once, gathered index keys."""
    hidden = batched_tokens * model.hidden_size * 2
    if not model.uses_dsa:
        return hidden
    return hidden + _GATHER_TOKENS * (max_model_len // _tokens_per_key(model)) * (model.index_head_dim + 4)


def _tokens_per_key(model: ModelGeometry) -> int:
    """Return the fewest tokens that one index key of the model stands for."""
    compression = model.compression
    if compression is None:
        return model.index_kpool
    sources = compression.index_sources
    ratios = [ratio for layer, ratio in enumerate(compression.ratios) if sources is None or layer in sources]
    return min((ratio for ratio in ratios if ratio > 0), default=1)
