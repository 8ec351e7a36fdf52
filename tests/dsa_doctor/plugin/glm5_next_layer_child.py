"""Runs in a process of its own: a sparse layer of GLM-5.3-Flash under the plugin, computed on the CPU.

vLLM's own layer, indexer, caches and metadata builders run; see `layer_child`. One more compiled kernel is written out
here, and all tokens attend through the sparse path. The answer is the layer's output and selection beside transformers'
on the same weights.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tests.dsa_doctor.plugin.layer_child import (
    Caches,
    Layout,
    as_stored,
    constructed,
    copy_all,
    deal_out,
    draw,
    engine_config,
    reply,
    write_out_shared_kernels,
)

BLOCK = 128
"""Tokens of a block, so 32 pools."""


def layout_for(longest: int) -> Any:
    """Return how the caches of rows, of index keys and of open pools lie that hold requests of so many tokens."""

    def layout(spec: Any) -> Layout:
        if spec.block_size < BLOCK:  # the open pool, one of a request
            return Layout(BLOCK, 1, (2, spec.block_size, 128))
        pool = int(getattr(spec, "tokens_per_state", 1) or 1)
        return Layout(BLOCK, -(-longest // BLOCK), (BLOCK // pool, spec.head_size))

    return layout


def copy_weights(ours: Any, oracle: Any) -> None:
    """Give vLLM's layer the weights of transformers' layer."""
    import torch

    indexer, source = ours.indexer, oracle.indexer
    rows = (
        (ours.fused_qkv_a_proj.weight, oracle.q_a_proj.weight, oracle.kv_a_proj_with_mqa.weight),
        (ours.q_a_layernorm.weight, oracle.q_a_layernorm.weight),
        (ours.kv_a_layernorm.weight, oracle.kv_a_layernorm.weight),
        (ours.q_b_proj.weight, oracle.q_b_proj.weight),
        (ours.kv_b_proj.weight, oracle.kv_b_proj.weight),
        (ours.o_proj.weight, oracle.o_proj.weight),
        (indexer.wq_b.weight, source.wq_b.weight),
        (indexer.wk_weights_proj.weight, source.wk.weight, source.weights_proj.weight),
        (indexer.k_norm.weight, source.k_norm.weight),
        (indexer.k_norm.bias, source.k_norm.bias),
        (indexer.index_kpool_compress_ape, source.index_kpool_compress_ape),
        (indexer.index_kpool_compress_gate, source.index_kpool_compress_gate),
    )
    copy_all(rows)
    ours.mla_attn.mla_attn.process_weights_after_loading(torch.bfloat16)


def write_out_the_row_cache() -> None:
    """Give the op that fills the cache of rows an implementation, by its contract."""
    import torch
    from vllm import _custom_ops

    torch.Tensor.pin_memory = lambda self, *_: self  # pinning asks a driver
    for name in ("empty", "zeros", "ones", "full", "arange", "tensor"):
        make = getattr(torch, name)
        setattr(torch, name, lambda *given, pin_memory=False, made=make, **named: made(*given, **named))

    def concat_and_cache_mla(kv_c: Any, k_pe: Any, cache: Any, slots: Any, **others: Any) -> None:
        del others  # bf16 rows have no scale
        assert k_pe.shape[-1] == 0
        for row, slot in zip(kv_c, slots.tolist(), strict=False):
            if slot >= 0:
                cache[slot // cache.shape[1], slot % cache.shape[1]] = row

    _custom_ops.concat_and_cache_mla = concat_and_cache_mla


class Selection:
    """Stands in for the forward of transformers' indexer: keeps its scores, and selects what the layer selected."""

    def __init__(self, indexer: Any) -> None:
        self.indexer, self.exact, self.scores, self.taken = indexer, indexer.forward, None, None
        indexer.forward = self.select

    def select(self, hidden_states: Any, q_resid: Any, **others: Any) -> Any:
        """Return the selection [1, T, width] that was taken."""
        del others
        import torch
        import torch.nn.functional as functional

        from dsa_kernels.kpool.naive import naive_pool, naive_rotate

        one, pool = self.indexer, self.indexer.index_kpool
        tokens = hidden_states.shape[1]
        q = one.wq_b(q_resid).view(tokens, -1, 128)
        keys = one.k_norm(one.wk(hidden_states))[0]
        gates = functional.linear(hidden_states, one.index_kpool_compress_gate)[0]
        whole = tokens // pool * pool
        pooled = naive_pool(
            keys[:whole].view(-1, pool, 128), gates[:whole].view(-1, pool, 128), one.index_kpool_compress_ape
        )
        weights = one.weights_proj(hidden_states)[0]
        products = torch.einsum("thd,pd->thp", as_stored(naive_rotate(q)), as_stored(naive_rotate(pooled)))
        self.scores = torch.einsum("thp,th->tp", products.relu(), weights)  # [T, pools]
        return self.taken

    def regrets(self) -> list[float]:
        """Return per token by how much its worst selected pool scores below the worst that is to be selected.

        In parts of the spread of the scores; 9 where the open pool is not whole, or tokens are missing, stand twice,
        lie in the future or come without their pool.
        """
        import torch

        found, pool = [], self.indexer.index_kpool
        most = self.indexer.index_topk // pool
        for position, taken in enumerate(self.taken[0]):
            chosen = taken[taken >= 0].sort().values
            closed = (position + 1) // pool
            history, tail = chosen[chosen < closed * pool], chosen[chosen >= closed * pool]
            pools = history[::pool] // pool
            whole = (pools[:, None] * pool + torch.arange(pool)).flatten()
            if (
                tail.tolist() != list(range(closed * pool, position + 1))
                or len(pools.unique()) != min(closed, most)
                or history.tolist() != whole.tolist()
            ):
                found.append(9.0)
            elif closed <= most:
                found.append(0.0)
            else:
                seen = self.scores[position, :closed]
                found.append(float((seen.topk(most).values[-1] - seen[pools].min()) / seen.std()))
        return found


@contextlib.contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Break one thing on the way, while entered."""
    from dsa_doctor.plugin import indices, ops, pooling

    select, rotate, rows, update, gather = (
        ops.topk_indices, ops.hadamard_quantize_fp8, indices.to_cache_rows, ops.kpool_decode_update, pooling.pools_of,
    )  # fmt: skip

    def without_rotation(q: Any) -> Any:
        from dsa_kernels.fp8.naive import naive_quantize_fp8

        return naive_quantize_fp8(q)

    def without_tail(requests: Any, table: Any, positions: Any, page_size: int) -> Any:
        found, counts = rows(requests, table, positions, page_size)
        return found, (counts - 3).clamp_min(1)

    def other_pool(*given: Any) -> None:
        update(*given[:6], given[6] - (given[6] >= 0).long(), *given[7:])

    faults: dict[str, tuple[Any, str, Any]] = {
        "selection": (ops, "topk_indices", lambda logits, *given, **named: select(-logits, *given, **named)),
        "rotation": (ops, "hadamard_quantize_fp8", without_rotation),
        "tail": (indices, "to_cache_rows", without_tail),
        "pool": (ops, "kpool_decode_update", other_pool),
        "chunk": (pooling, "pools_of", lambda k, gate, kept, *given: gather(k, gate, kept.flip(2), *given)),
    }
    holder, name, broken = faults[fault] if fault else (ops, "hadamard_quantize_fp8", rotate)
    with mock.patch.object(holder, name, broken):
        yield


def computed(request: dict[str, Any]) -> dict[str, Any]:
    """Return, without a fault and with each, the layer's answer: see `compared`."""
    import torch
    from transformers.models.glm5_next import Glm5NextTextConfig
    from transformers.models.glm5_next import modeling_glm5_next as modeling

    from dsa_doctor.plugin.families import glm5_next_models  # noqa: F401  # applies the patches

    write_out_shared_kernels()
    write_out_the_row_cache()
    config = engine_config(request["config"], compilation_config={"custom_ops": ["none"]})
    config.cache_config.block_size = BLOCK
    text = config.model_config.hf_text_config
    layer = constructed(config, lambda: attention(config))
    given = {name: value for name, value in request["config"].items() if name not in ("architectures", "model_type")}
    theirs = Glm5NextTextConfig(**given)
    theirs._attn_implementation = "eager"
    oracle = modeling.Glm5NextTextAttention(theirs, 3).float().eval()
    draw(oracle, 3)
    copy_weights(layer, oracle)
    layer.mla_attn.mla_attn.use_direct_call = True  # the op is registered for CUDA alone
    layer.mla_attn.mla_attn._use_sparse_mha = lambda metadata: False  # dense prefill is FlashAttention's
    layer.mla_attn.mla_attn.impl.record_logical_topk_ready = lambda: None  # records a stream
    generator = torch.Generator().manual_seed(5)
    hidden = [torch.randn(one, text.hidden_size, generator=generator).bfloat16() for one in request["lengths"]]
    answers = {}
    for fault in (None, *request["faults"]):
        with planted(fault):
            answers[fault or "right"] = compared(config, layer, oracle, hidden, request["steps"])
    return answers


def attention(config: Any) -> Any:
    """Construct vLLM's sparse attention of one layer."""
    import torch

    from dsa_doctor.plugin.families import glm5_next

    text = config.model_config.hf_text_config
    width = -(-(text.index_topk + text.index_kpool - 1) // 128) * 128
    return glm5_next._imported(glm5_next.ATTENTIONS).Glm5NextMLAAttention(
        vllm_config=config, config=text, hidden_size=text.hidden_size, num_heads=text.num_attention_heads,
        qk_nope_head_dim=text.qk_nope_head_dim, qk_rope_head_dim=0, v_head_dim=text.v_head_dim,
        q_lora_rank=text.q_lora_rank, kv_lora_rank=text.kv_lora_rank, cache_config=config.cache_config,
        prefix="model.layers.3.self_attn", skip_rope=True,
        topk_indices_buffer=torch.zeros(1024, width, dtype=torch.int32),
    )  # fmt: skip


def compared(config: Any, layer: Any, oracle: Any, hidden: list[Any], steps: Any) -> dict[str, Any]:
    """Serve the steps through the layer, on fresh caches, and compare with transformers.

    Returns:
        The relative error of each token that was served, and the regret of its selection.
    """
    import torch
    from vllm.forward_context import set_forward_context

    forward = config.compilation_config.static_forward_context
    caches = Caches(
        {name: one for name, one in forward.items() if hasattr(one, "get_kv_cache_spec")},
        config,
        len(hidden),
        layout_for(max(len(one) for one in hidden)),
    )
    buffer = layer.mla_attn.topk_indices_buffer
    found = [torch.zeros(one.shape) for one in hidden]
    taken = [torch.full((len(one), buffer.shape[1]), -1, dtype=torch.int32) for one in hidden]
    for step in steps:
        metadata, slots, positions = caches.metadata(step)
        given = torch.cat([hidden[owner][first:end] for owner, first, end in step])
        context = set_forward_context(metadata, config, num_tokens=len(positions), slot_mapping=slots)
        with torch.no_grad(), context:
            out = layer(given, positions).float()
        deal_out(step, out, found)
        deal_out(step, buffer, taken)
    selection = Selection(oracle.indexer)
    errors, regrets = [], []
    for owner, one in enumerate(hidden):
        selection.taken = taken[owner][None]
        with torch.no_grad():
            right = oracle(one[None].float(), torch.ones(1, len(one), dtype=torch.bool))[0][0]
        errors += ((found[owner] - right).norm(dim=-1) / right.norm(dim=-1)).tolist()
        regrets += selection.regrets()
    oracle.indexer.forward = selection.exact
    return {"errors": errors, "regrets": regrets}


if __name__ == "__main__":
    reply(computed)
