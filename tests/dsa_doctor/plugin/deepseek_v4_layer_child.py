"""Runs in a process of its own: layers of DeepSeek-V4's attention under the plugin, computed on the CPU.

vLLM's own layers, caches, metadata builders and indexer run; see `layer_child`. One more compiled kernel is written out
here, and the indexer's op is called as a function. The answer is each layer's output beside transformers' on the same
weights.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tests.dsa_doctor.plugin.launched_kernels import Launches
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

RATIO = 4
"""Tokens of a group of the layers that select."""


def write_out_the_insert() -> None:
    """Give the compiled kernel that norms and rotates queries and fills the window's cache an implementation."""
    import torch

    from dsa_kernels.compressor.naive import naive_rotate_end

    def insert(
        q: Any, kv: Any, cache: Any, slots: Any, positions: Any, angles: Any, eps: float, block_size: int
    ) -> None:
        turned = angles[positions]
        normed = q.float() * torch.rsqrt(q.float().square().mean(-1, keepdim=True) + eps)
        q.copy_(naive_rotate_end(normed, turned.unsqueeze(1)))
        rows = naive_rotate_end(kv, turned).to(cache.dtype)
        for row, slot in zip(rows, slots.tolist(), strict=False):
            if slot >= 0:
                cache[slot // block_size, slot % block_size] = row

    torch.ops._C.fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert = insert


def layout_for(longest: int) -> Any:
    """Return how the caches lie that hold requests of so many tokens: a row for each group that is compressed."""

    def layout(spec: Any) -> Layout:
        block = int(spec.block_size)
        ratio = int(getattr(spec, "tokens_per_state", None) or getattr(spec, "compress_ratio", 1))
        return Layout(block, -(-longest // block), (block // ratio, spec.head_size))

    return layout


def copy_weights(ours: Any, oracle: Any) -> None:
    """Give a layer of vLLM the weights of transformers' layer."""
    rows = [
        (ours.fused_wqa_wkv.weight, oracle.q_a_proj.weight, oracle.kv_proj.weight),
        (ours.q_norm.weight, oracle.q_a_norm.weight),
        (ours.kv_norm.weight, oracle.kv_norm.weight),
        (ours.wq_b.weight, oracle.q_b_proj.weight),
        (ours.wo_a.weight, oracle.o_a_proj.weight),
        (ours.wo_b.weight, oracle.o_b_proj.weight),
        (ours.attn_sink, oracle.sinks),
    ]
    compressors = []
    if ours.compressor is not None:
        compressors.append((ours.compressor, oracle.compressor))
    if ours.indexer is not None:
        indexer = oracle.compressor.indexer
        rows.append((ours.indexer.wq_b.weight, indexer.q_b_proj.weight))
        rows.append((ours.indexer.weights_proj.weight, indexer.scorer.weights_proj.weight))
        compressors.append((ours.indexer.compressor, indexer))
    for compressor, source in compressors:
        rows += [
            (compressor.fused_wkv_wgate.weight, source.kv_proj.weight, source.gate_proj.weight),
            (compressor.norm.weight, source.kv_norm.weight),
            (compressor.ape, source.position_bias),
        ]
    copy_all(rows)


class Selection:
    """Stands in for transformers' indexer: keeps its scores, and selects what the layer under test selected."""

    def __init__(self, indexer: Any) -> None:
        self.indexer, self.scores, self.taken = indexer, None, None
        self.exact, self.score = indexer.forward, indexer.scorer.forward
        indexer.forward, indexer.scorer.forward = self.select, self.keep

    def keep(self, q: Any, keys: Any, hidden: Any) -> Any:
        """Score as ever, and keep the scores [1, T, keys]."""
        self.scores = self.score(as_stored(q), as_stored(keys), hidden)
        return self.scores

    def select(self, *given: Any) -> Any:
        """Return the selection [1, T, topk] that was taken."""
        self.exact(*given)
        return self.taken

    def regrets(self) -> list[float]:
        """Return per token by how much its worst selected key scores below the worst that is to be selected.

        In parts of the spread of the scores; 9 where positions are missing, stand twice, or lie in the future.
        """
        found = []
        for position, (scores, taken) in enumerate(zip(self.scores[0], self.taken[0], strict=True)):
            seen = scores[: (position + 1) // RATIO]
            wanted = min(len(seen), len(taken))
            chosen = taken[taken >= 0]
            if len(chosen.unique()) != wanted or len(chosen) != wanted or (chosen >= len(seen)).any():
                found.append(9.0)
            elif wanted < 2:
                found.append(0.0)
            else:
                found.append(float((seen.topk(wanted).values[-1] - seen[chosen].min()) / seen.std()))
        return found


def expected(oracle: Any, rotary: Any, hidden: Any) -> Any:
    """Return transformers' output [T, hidden] of one request, computed at once and in fp32."""
    import torch

    tokens = hidden.shape[0]
    positions = torch.arange(tokens)[None]
    angles = {kind: rotary(hidden, position_ids=positions, layer_type=kind) for kind in ("main", "compress")}
    distance = positions[0][:, None] - positions[0][None, :]
    seen = (distance >= 0) & (distance < oracle.sliding_window)
    mask = torch.zeros(1, 1, tokens, tokens).masked_fill(~seen, float("-inf"))
    with torch.no_grad():
        return oracle(hidden[None], angles, positions, mask)[0][0]


class SharedOut:
    """Stands in for the indexer's op on ranks that share out the rows of a prefill: vLLM's op runs for each, in turn.

    Each rank scores its slice; what it hands to the others is kept, and all of it is in the buffer at the end.
    """

    def __init__(self, ranks: int, swapped: bool) -> None:
        self.ranks, self.swapped, self.slices = ranks, swapped, []

    def mark(self, metadata: Any, step: Any) -> None:
        """Let the metadata of a step say how many prefilled rows each rank has: vLLM's own sharing out."""
        from vllm.v1.attention.backends.mla import indexer as builder

        for one in metadata.values():
            if not isinstance(one, builder.DeepseekV32IndexerMetadata) or one.prefill is None:
                continue
            import torch

            prefilled = step[len(step) - one.num_prefills :]
            ends = torch.tensor([end for _, _, end in prefilled])
            lengths = torch.tensor([end - first for _, first, end in prefilled])
            one.prefill.row_shard_sizes = builder.balanced_prefill_row_shard(ends, lengths, RATIO, self.ranks, 1)

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Run the op as every rank, and then as the last one, to which all slices come."""
        import torch
        from vllm.model_executor.layers import sparse_attn_indexer as layer

        kept: dict[int, Any] = {}

        def gathered(local: Any, dim: int, sizes: list[int]) -> Any:
            assert dim == 0
            kept[len(kept)] = local.clone()  # a view of the buffer, which the next rank clears
            everything = [kept.get(one, local.new_full((size, local.shape[1]), -7)) for one, size in enumerate(sizes)]
            return torch.cat(everything[::-1] if self.swapped else everything)

        group = mock.Mock(all_gatherv=gathered)
        for rank in range(self.ranks):
            with (
                mock.patch.object(layer, "get_tensor_model_parallel_rank", return_value=rank),
                mock.patch.object(layer, "get_tp_group", return_value=group),
            ):
                found = layer.sparse_attn_indexer(*given, **named)
        if kept:
            self.slices.append([len(kept[one]) for one in range(self.ranks)])
        return found


@contextlib.contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Break one thing on the way, while entered."""
    from dsa_doctor.plugin import ops

    select, attend, turn, compress = (
        ops.topk_indices, ops.window_and_selected_mla, ops.inverse_rope_grouped, ops.compress_norm_rope_store,
    )  # fmt: skip
    faults: dict[str, tuple[str, Any]] = {
        "selection": ("topk_indices", lambda logits, *given, **named: select(-logits, *given, **named)),
        "sink": ("window_and_selected_mla", lambda *given: attend(*given[:4], given[4] + 0.6931, given[5])),
        "position": ("inverse_rope_grouped", lambda o, at, *given: turn(o, at + 1, *given)),
        "group": (
            "compress_norm_rope_store",
            # The group before: a position off by one group, for the states and for the rope.
            lambda states, requests, at, *given: compress(states, requests, at - given[-2], *given),
        ),
    }
    name, broken = faults[fault] if fault else ("topk_indices", select)
    with mock.patch.object(ops, name, broken):
        yield


def computed(request: dict[str, Any]) -> dict[str, Any]:
    """Return, without a fault and with each, the answers of the layers: see `compared`."""
    import torch
    from transformers import DeepseekV4Config
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as modeling
    from vllm.platforms import current_platform

    current_platform.dispatch_key = "CPU"  # where vLLM registers its own ops, as it imports its layers

    from dsa_doctor.plugin.families import deepseek_v4_models  # noqa: F401  # applies the patches, as vLLM's registry does

    launches = Launches() if request.get("launches") else None
    write_out_shared_kernels()
    write_out_the_insert()
    config = engine_config(request["config"])
    hf_config = DeepseekV4Config.from_dict(request["config"])  # early releases of vLLM have one of their own
    hf_config._attn_implementation = "eager"
    made = constructed(config, lambda: attentions(config))
    oracles = [modeling.DeepseekV4Attention(hf_config, number).float().eval() for number in range(len(made))]
    for number, (layer, oracle) in enumerate(zip(made, oracles, strict=True)):
        draw(oracle, number)
        copy_weights(layer, oracle)
    generator = torch.Generator().manual_seed(3)
    hidden = [
        torch.randn(length, hf_config.hidden_size, generator=generator).bfloat16() for length in request["lengths"]
    ]
    pairs = list(zip(made, oracles, strict=True))
    selecting = [pair for pair in pairs if pair[0].compress_ratio == RATIO]
    rotary = modeling.DeepseekV4RotaryEmbedding(hf_config)
    if request.get("ranks"):
        answers = {}
        for name, swapped in (("shared out", False), ("swapped", True)):
            ranks = SharedOut(request["ranks"], swapped)
            (answers[name],) = compared(config, selecting, rotary, hidden, request["steps"], ranks)
            answers[name]["slices"] = ranks.slices
        return answers
    if launches is not None:
        record_what_is_replaced(launches)
    answers = {"right": compared(config, pairs, rotary, hidden, request["steps"])}
    if launches is not None:
        answers["launches"] = list(launches.found.values())
    for fault in request["faults"]:
        with planted(fault):
            answers[fault] = compared(config, selecting, rotary, hidden, request["steps"][:2])
    return answers


def record_what_is_replaced(launches: Launches) -> None:
    """Let vLLM's own Triton kernels be recorded where something stands for them here, with the same arguments.

    These are what the plugin replaces, the rows of a selection, which the references find without a kernel, and the
    norms of a draft.
    """
    import torch
    from vllm.models.deepseek_v4 import attention, compressor

    from dsa_doctor.plugin import indices, ops

    # The package gives functions the names of their modules.
    cache_utils, fused_compress_quant_cache, fused_indexer_q, inverse_rope, mtp = (
        importlib.import_module(f"vllm.models.deepseek_v4.common.ops.{name}")
        for name in (
            "cache_utils",
            "fused_compress_quant_cache",
            "fused_indexer_q",
            "fused_inv_rope_fp8_quant",
            "fused_mtp_input_rmsnorm",
        )
    )

    def output_rope(o: Any, positions: Any, angles: Any, groups: int) -> Any:
        heads = o.shape[1] // groups
        return inverse_rope.fused_inv_rope_fp8_quant(o, positions, angles, n_groups=groups, heads_per_group=heads)

    fused_indexer_q.has_cutedsl = lambda: False
    for holder, name, theirs in (
        (attention, "fused_indexer_q_rope_quant", fused_indexer_q.fused_indexer_q_rope_quant),
        (compressor, "compress_norm_rope_store_triton", fused_compress_quant_cache.compress_norm_rope_store_triton),
        (indices, "compressed_rows", cache_utils.compute_global_topk_indices_and_lens),
        (ops, "inverse_rope_grouped", output_rope),
    ):
        setattr(holder, name, launches.beside(getattr(holder, name), theirs))
    norms = vars(mtp)
    first = norms.get("_FUSED_MTP_INPUT_RMSNORM_KERNEL") or norms["fused_mtp_input_rmsnorm"]
    last = norms.get("_MTP_SHARED_HEAD_RMSNORM_KERNEL") or norms["mtp_shared_head_rmsnorm"]
    streams, weight = torch.zeros((2, 4, 256), dtype=torch.bfloat16), torch.ones(256, dtype=torch.bfloat16)
    with launches.only_recorded():
        first(streams[:, 0].contiguous(), torch.arange(2), streams, weight, weight, 1e-6, 4)
        last(streams[:, 0].contiguous(), weight, 1e-6)


def attentions(config: Any) -> list[Any]:
    """Construct vLLM's attention of every layer."""
    import torch
    from vllm.models.deepseek_v4.nvidia import model as v4
    from vllm.platforms import current_platform

    hf_config = config.model_config.hf_config
    buffer = torch.zeros(1024, hf_config.index_topk, dtype=torch.int32)
    made = [
        v4._select_dsv4_attn_cls(config)(config, prefix=f"model.layers.{layer}.attn", topk_indices_buffer=buffer)
        for layer in range(hf_config.num_hidden_layers)
    ]
    current_platform.update_block_size_for_backend(config)
    return made


def compared(
    config: Any, pairs: list[Any], rotary: Any, hidden: list[Any], steps: Any, ranks: SharedOut | None = None
) -> list[dict[str, Any]]:
    """Serve the steps through each layer, on fresh caches, and compare with transformers.

    Returns:
        Of each layer its ratio, the relative error of each token that was served, and the regret of its selection.
    """
    import torch
    from vllm.forward_context import set_forward_context
    from vllm.model_executor.layers import sparse_attn_indexer as indexer_layer

    torch.ops.vllm.sparse_attn_indexer = ranks or indexer_layer.sparse_attn_indexer  # registered for CUDA alone
    forward = config.compilation_config.static_forward_context
    names = [layer.prefix for layer, _ in pairs]
    held = {name: one for name, one in forward.items() if hasattr(one, "get_kv_cache_spec")}
    held = {name: one for name, one in held.items() if any(name.startswith(prefix) for prefix in names)}
    caches = Caches(held, config, len(hidden), layout_for(max(len(one) for one in hidden)))
    found = [[torch.zeros(one.shape) for one in hidden] for _ in pairs]
    width = config.model_config.hf_config.index_topk
    taken = [torch.full((len(one), width), -1) for one in hidden]
    served = [0 for _ in hidden]
    for step in steps:
        metadata, _, positions = caches.metadata(step)
        if ranks is not None:
            ranks.mark(metadata, step)
        given = torch.cat([hidden[owner][first:end] for owner, first, end in step])
        for number, (layer, _) in enumerate(pairs):
            with torch.no_grad(), set_forward_context(metadata, config, num_tokens=len(positions)):
                out = layer(positions, given).float()
            deal_out(step, out, found[number])
            if layer.indexer is not None:
                deal_out(step, layer.topk_indices_buffer, taken)
        for owner, _, end in step:
            served[owner] = end
    answers = []
    for number, (layer, oracle) in enumerate(pairs):
        selection = Selection(oracle.compressor.indexer) if layer.indexer is not None else None
        errors, regrets = [], []
        for owner, tokens in enumerate(served):
            if selection is not None:
                keys = tokens // RATIO
                selection.taken = taken[owner][None, :tokens, : min(width, keys)]
            right = expected(oracle, rotary, hidden[owner][:tokens].float())
            distance = (found[number][owner][:tokens] - right).norm(dim=-1) / right.norm(dim=-1)
            errors += distance.tolist()
            regrets += selection.regrets() if selection is not None else []
        answers.append({"ratio": layer.compress_ratio, "errors": errors, "regrets": regrets})
        if selection is not None:
            selection.indexer.forward, selection.indexer.scorer.forward = selection.exact, selection.score
    return answers


if __name__ == "__main__":
    reply(computed)
