"""Runs in a process of its own: a whole tiny DeepSeek-V4.1 under the plugin, computed on the CPU.

vLLM's own model, loader, caches, metadata builders, indexer, candidate selection, compressor and engram run, with
compute capability 8.0 in force and their Triton kernels interpreted; the plugin's ops are the references, or its own
kernels, interpreted as well. Written out here are the compiled kernels of the path, the TileLang kernels around the mHC
product, and the experts. The answer is each token's distance from the oracle's logits, and what the selections regret.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.dsa_doctor.plugin.layer_child import (
    Caches,
    Layout,
    constructed,
    deal_out,
    engine_config,
    reply,
    write_out_shared_kernels,
)

os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

CANDIDATES = "vllm.model_executor.kernels.attention.dsa.candidate_blocks"


def write_out_the_insert() -> None:
    """Give the compiled kernel that rotates queries and fills the window's cache an implementation."""
    import torch

    from dsa_kernels.compressor.naive import naive_rotate_end

    def insert(
        q: Any, kv: Any, cache: Any, slots: Any, positions: Any, angles: Any, eps: float, size: int, norm: bool
    ) -> None:
        assert not norm  # V4.1 normalises before it projects
        turned = angles[positions]
        q.copy_(naive_rotate_end(q.float(), turned.unsqueeze(1)))
        rows = naive_rotate_end(kv, turned).to(cache.dtype)
        for row, slot in zip(rows, slots.tolist(), strict=False):
            if slot >= 0:
                cache[slot // size, slot % size] = row

    torch.ops._C.fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert = insert


def stand_in_for_a_device() -> None:
    """Let a model be made, and vLLM's choice of candidate blocks run, where there is no GPU to ask."""
    import torch

    torch.cuda.Stream = torch.cuda.Event = mock.MagicMock  # type: ignore[assignment, misc]
    torch.cuda.current_stream = mock.MagicMock()
    torch.accelerator.current_device_index = lambda: 0
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(multi_processor_count=108)
    spec = importlib.util.find_spec(CANDIDATES)
    assert spec is not None
    text = Path(str(spec.origin)).read_text(encoding="utf-8")
    assert "assert logits.is_cuda" in text
    changed = Path(tempfile.mkdtemp(), "candidate_blocks.py")  # Triton reads a kernel's text from its file
    changed.write_text(text.replace("assert logits.is_cuda", "pass"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(CANDIDATES, changed)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[CANDIDATES] = module
    spec.loader.exec_module(module)


def write_out_mhc() -> None:
    """Give the TileLang kernels around the mHC product an implementation: vLLM's own torch references."""
    import torch
    from vllm.model_executor.kernels.mhc import tilelang_kernels, warmup
    from vllm.model_executor.kernels.mhc.torch import mhc_post_torch, mhc_pre_delayed_torch

    def pre_norm(
        products: Any, squares: Any, scale: Any, base: Any, residual: Any, post: Any, comb: Any, layer_input: Any,
        norm_weight: Any, pre_mix: Any, next_pre_mix: Any, aux: Any, **given: Any,
    ) -> None:  # fmt: skip
        # The reference takes what the product is made of; this one is there already: its unit rows stand for it.
        width = given["rms_numel"]
        length = products.shape[2]
        # x @ I = products, and its mean square, over as many values, is that of the real input.
        rest = (squares.sum(0) - products.sum(0).square().sum(-1)) / (width - length)
        x = torch.cat((products.sum(0), rest[:, None].abs().sqrt().expand(-1, width - length)), 1)
        sign = torch.where(rest < 0, -1.0, 1.0)
        assert (sign > 0).all(), "the squares are less than the products"
        fn = torch.eye(length, width)
        carried = pre_mix if given["use_pre_mix_in"] else None
        found = mhc_pre_delayed_torch(
            residual, fn, scale, base, given["rms_eps"], given["hc_pre_eps"], given["hc_sinkhorn_eps"],
            given["hc_post_mult_value"], given["sinkhorn_repeat"], carried, x,
        )  # fmt: skip
        post.copy_(found[0].squeeze(-1))
        comb.copy_(found[1].flatten(1))
        next_pre_mix.copy_(found[3])
        taken = found[2].float()
        normed = taken * torch.rsqrt(taken.square().mean(-1, keepdim=True) + given["norm_eps"]) * norm_weight.float()
        layer_input.copy_(normed)

    def post(comb: Any, residual: Any, mix: Any, x: Any, out: Any, *sizes: int) -> None:
        out.copy_(mhc_post_torch(x, residual, mix.unsqueeze(-1), comb))

    pre_norm.register_warmup = lambda **_: None  # type: ignore[attr-defined]
    warmup.MHC_PRE_NORM_KERNEL = pre_norm
    tilelang_kernels._MHC_POST_TILELANG_KERNEL = post
    tilelang_kernels.mhc_fused_post_pre_split_config = lambda *_: None  # the product is a call of its own then


def write_out_experts() -> None:
    """Give the mixture of experts an implementation that reads vLLM's loaded weights; it is vLLM's on a GPU."""
    import torch
    from vllm.models.deepseek_v41.nvidia import model

    def forward(self: Any, x: Any, input_ids: Any, *_: Any) -> Any:
        held = dict(self.named_parameters())
        (both,), (down,) = ([held[name] for name in held if name.endswith(end)] for end in ("w13_weight", "w2_weight"))

        def expert(x: Any, first: Any, second: Any) -> Any:
            gate, up = (x.float() @ first.float().T).chunk(2, -1)
            inner = torch.nn.functional.silu(gate.clamp(max=self.swiglu_limit)) * up.clamp(
                -self.swiglu_limit, self.swiglu_limit
            )
            return inner.bfloat16().float() @ second.float().T

        shared = (held[f"shared_experts.{name}.weight"] for name in ("gate_up_proj", "down_proj"))
        out = expert(x, *shared)
        affinity = torch.nn.functional.softplus(x.float() @ self.gate.weight.float().T).sqrt()
        order = (affinity + self.gate.e_score_correction_bias).topk(self.n_activated_experts).indices
        self.order = order
        share = affinity.gather(1, order)
        share = share / share.sum(-1, keepdim=True) * self.routed_scaling_factor
        for number in range(self.n_routed_experts):
            token, place = (order == number).nonzero(as_tuple=True)
            out[token] += share[token, place, None] * expert(x[token], both[number], down[number])
        return out.to(x.dtype)

    model.DeepseekV4MoE.forward = forward


@contextlib.contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Break one thing on the way, while entered."""
    from dsa_doctor.plugin import ops
    from dsa_doctor.plugin.families import deepseek_v41_attention

    own = deepseek_v41_attention.TritonDeepseekV41Attention
    select, attend, turn, keys, table, product = (
        ops.topk_indices, ops.window_and_selected_mla, ops.inverse_rope_grouped, ops.index_key_norm_rope_store,
        ops.engram_lookup, ops.hc_prenorm_gemm,
    )  # fmt: skip
    faults: dict[str, tuple[Any, str, Any]] = {
        "selection": (ops, "topk_indices", lambda logits, *given, **named: select(-logits, *given, **named)),
        "sink": (ops, "window_and_selected_mla", lambda *given: attend(*given[:4], given[4] + 0.6931, given[5])),
        "no rows": (own, "_selected", lambda self, window, every: None),
        "position": (ops, "inverse_rope_grouped", lambda o, at, *given: turn(o, at + 7, *given)),
        "key's place": (ops, "index_key_norm_rope_store", lambda k, *given: keys(k.roll(given[-1], 0), *given)),
        "engram's row": (ops, "engram_lookup", lambda a, b, ids, *given: table(a, b, ids + 1, *given)),
        "product": (ops, "hc_prenorm_gemm", lambda x, fn, *given: product(x, fn.roll(1, 0), *given)),
    }
    holder, name, broken = faults[fault] if fault else (ops, "topk_indices", select)
    with mock.patch.object(holder, name, broken):
        yield


def layout_for(longest: int) -> Any:
    """Return how the caches lie that hold requests of so many tokens."""

    def layout(spec: Any) -> Layout:
        block, ratio = int(spec.block_size), int(getattr(spec, "tokens_per_state", None) or 1)
        return Layout(block, -(-longest // block), (block // ratio, spec.head_size))

    return layout


class Model:
    """The whole model, loaded from a checkpoint, with what it selected."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Any]) -> None:
        from vllm.model_executor.model_loader.utils import initialize_model
        from vllm.platforms import current_platform

        from tests.dsa_doctor.plugin.tiny_models import write_tokenizer

        words = tempfile.mkdtemp()
        write_tokenizer(Path(words))
        self.config = engine_config(
            config, max_model_len=512, max_num_batched_tokens=512, tokenizer=words, limit_mm_per_prompt={"image": 0},
            engram_config={"cpu_offload": False},
        )  # fmt: skip

        def loaded() -> Any:
            whole = initialize_model(self.config)
            found = whole.load_weights(iter(tensors.items()))
            current_platform.update_block_size_for_backend(self.config)
            missed = {name for name in dict(whole.named_parameters()) if "language_model" in name} - found
            assert not missed, missed
            return whole.language_model

        self.text = constructed(self.config, loaded)
        for layer in self.text.model.layers:
            layer.attn.aux_stream_list = None
            layer.attn.wo_a.quant_method.process_weights_after_loading(layer.attn.wo_a)
        self.text.model.norm.forward = self.text.model.norm.forward_native
        self.topk = self.text.model.topk_indices_buffer
        self.blocks = self.text.model.candidate_block_buffer

    def serve(self, requests: list[Any], steps: list[list[list[int]]], sources: list[int], candidates: int) -> Any:
        """Serve the steps on fresh caches; return each request's logits, rows by index source, blocks and experts."""
        import torch
        from vllm.forward_context import set_forward_context
        from vllm.model_executor.layers import sparse_attn_indexer as indexer_layer

        torch.ops.vllm.sparse_attn_indexer = indexer_layer.sparse_attn_indexer  # registered for CUDA alone
        context = self.config.compilation_config.static_forward_context
        held = {name: one for name, one in context.items() if hasattr(one, "get_kv_cache_spec")}
        caches = Caches(held, self.config, len(requests), layout_for(max(len(one) for one in requests)))
        count = self.text.config.vocab_size
        logits = [torch.zeros(len(one), count) for one in requests]
        rows = [{one: torch.full((len(tokens), self.topk.shape[1]), -1) for one in sources} for tokens in requests]
        blocks = [torch.full((len(one), self.blocks.shape[1]), -1) for one in requests]
        every = list(self.text.model.layers)
        experts = [
            [torch.zeros(len(one), layer.ffn.n_activated_experts, dtype=torch.int64) for layer in every]
            for one in requests
        ]
        attend = type(self.text.model.layers[0].attn).forward_mqa
        now: dict[int, tuple[Any, Any]] = {}

        def watched(layer: Any, *given: Any) -> None:
            if layer.indexer is not None:
                now[layer.layer_id] = (self.topk.clone(), self.blocks.clone())
            attend(layer, *given)

        depth = self.text.token_lookback_depth
        for step in steps:
            metadata, _, positions = caches.metadata([(owner, first, end) for owner, first, end in step])
            tokens = torch.cat([requests[owner][first:end] for owner, first, end in step])
            back = torch.full((len(step), depth), -1)
            for number, (owner, first, _) in enumerate(step):
                for place in range(min(depth, first)):
                    back[number, place] = requests[owner][first - 1 - place]
            self.blocks.fill_(-1)
            with (
                torch.no_grad(),
                set_forward_context(metadata, self.config, num_tokens=len(positions)),
                mock.patch.object(type(self.text.model.layers[0].attn), "forward_mqa", watched),
            ):
                hidden = self.text(tokens, positions, lookback_token_ids=back)
            found = hidden.float() @ self.text.lm_head.weight[:count].float().T
            deal_out(step, found, logits)
            for source in sources:
                deal_out(step, now[source][0], [one[source] for one in rows])
            deal_out(step, now[candidates][1], blocks)
            for number, layer in enumerate(every):
                deal_out(step, layer.ffn.order, [one[number] for one in experts])
        return logits, rows, blocks, experts


def answers(request: dict[str, Any]) -> dict[str, Any]:
    """Return, without a fault and with each: errors of the logits by token, and the regrets of the selections."""
    import torch

    stand_in_for_a_device()  # before vLLM's modules take from it what they need
    from dsa_doctor.plugin.families import deepseek_v41_models  # noqa: F401  # applies the patches, as vLLM's registry does
    from tests.dsa_doctor.plugin.deepseek_v41.checkpoint import checkpoint
    from tests.dsa_doctor.plugin.deepseek_v41.oracle import Oracle, Selections

    write_out_shared_kernels()
    write_out_the_insert()
    write_out_mhc()
    write_out_experts()
    text = request["config"]["text_config"]
    tensors = checkpoint(text)
    model = Model(request["config"], tensors)
    oracle = Oracle(text, tensors, model.text.model.engram_hash.token_map.tolist())
    generator = torch.Generator().manual_seed(5)
    requests = [torch.randint(1, 34, (length,), generator=generator) for length in request["lengths"]]
    found = {}
    for fault in (None, *request["faults"]):
        steps = request["steps"] if fault is None else request["faulty steps"]
        with planted(fault):
            served = model.serve(requests, steps, text["index_source_layer_ids"], text["candidate_source_layer_id"])
        ends = [max((end for step in steps for one, _, end in step if one == owner), default=0)
                for owner in range(len(requests))]  # fmt: skip
        errors, regrets = [], {}
        for tokens, end, logits, rows, blocks, experts in zip(requests, ends, *served, strict=True):
            if not end:
                continue
            chosen = Selections(
                {source: one[:end] for source, one in rows.items()}, blocks[:end], [one[:end] for one in experts]
            )
            right = oracle.logits(tokens[:end], whole(chosen, text))
            errors += ((logits[:end] - right).norm(dim=-1) / right.norm(dim=-1)).tolist()
            for name, values in chosen.regrets.items():
                regrets.setdefault(name, []).extend(values)
        found[fault or "right"] = {"errors": errors, "regrets": regrets}
    return found


def whole(chosen: Any, text: dict[str, Any]) -> Any:
    """Fill in the candidate blocks of steps so short that every row was selected: all that there are."""
    import torch

    block = text["candidate_block_size"]
    for token, row in enumerate(chosen.blocks):
        if (row < 0).all():
            there = torch.arange(token // block + 1)[: len(row)]
            row[: len(there)] = there
    return chosen


if __name__ == "__main__":
    reply(answers)
