"""Runs in a process of its own: layers of DeepSeek-V4's attention under the plugin, computed on the CPU.

vLLM's own layers, caches, metadata builders and indexer run, with compute capability 8.0 in force and their Triton
kernels interpreted; the plugin's ops are the references, or its own kernels, interpreted as well. Two compiled kernels
are written out here, and the indexer's op is called as a function. The answer is each layer's output beside
transformers' on the same weights.
"""

import contextlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

OUTPUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM's own output must not mix with the answer
os.environ.update(
    TRITON_INTERPRET="1",
    CUDA_VISIBLE_DEVICES="",  # vLLM then takes Triton as usable without an active driver
    VLLM_PLUGINS="",
    HF_HUB_OFFLINE="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    DSA_DOCTOR_PLUGIN="auto",
)

RATIO = 4
"""Tokens of a group of the layers that select."""


def load(root: str) -> Any:
    """Import the release below `root` with 8.0 in force, and load the plugin as vLLM would."""
    sys.path.insert(0, root)
    from dsa_doctor.compat import emulation

    emulated = emulation.install("8.0", unloadable="any")
    import vllm  # noqa: F401

    emulated.platform()
    emulated.inspect_models_here()
    from dsa_doctor.plugin import entry, report

    report.refuse_or_log = lambda vllm_config: None
    entry.register()
    return emulated


def write_out_compiled_kernels() -> None:
    """Give the two compiled kernels of the path an implementation, by their contracts."""
    import torch

    from dsa_kernels.compressor.naive import naive_rotate_end
    from dsa_kernels.fp8.naive import naive_read_indexer_cache

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

    def gather(cache: Any, keys: Any, scales: Any, table: Any, starts: Any) -> None:
        rows = [
            table[request, position // cache.shape[1]] * cache.shape[1] + position % cache.shape[1]
            for request, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
            for position in range(last - first)
        ]
        found, scale = naive_read_indexer_cache(cache, torch.stack(rows).long())
        keys[: len(rows)].view(torch.uint8).copy_(found.view(torch.uint8))
        scales[: len(rows)].view(torch.float32).copy_(scale.unsqueeze(-1))

    torch.ops._C.fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert = insert
    from vllm import _custom_ops

    _custom_ops.cp_gather_indexer_k_quant_cache = gather
    torch.cuda.is_current_stream_capturing = lambda: False
    product = torch.mm

    def mm(a: Any, b: Any, out_dtype: Any = None) -> Any:
        return product(a, b) if out_dtype is None else product(a.to(out_dtype), b.to(out_dtype))

    torch.mm = mm


class Caches:
    """Every cache of a layer, in pages that lie apart, and the tables of the requests."""

    def __init__(self, layers: dict[str, Any], config: Any, lengths: list[int]) -> None:
        import torch

        self.layers, self.config, self.lengths = layers, config, lengths
        self.builders: dict[str, Any] = {}
        self.tables: dict[str, Any] = {}
        self.blocks: dict[str, int] = {}
        generator = torch.Generator().manual_seed(7)
        for name, layer in layers.items():
            spec = layer.get_kv_cache_spec(config)
            if spec is None:
                continue
            block = int(spec.block_size)
            each = -(-max(lengths) // block)
            pages = each * len(lengths) + 1  # page 0 belongs to nobody
            ratio = int(getattr(spec, "tokens_per_state", None) or getattr(spec, "compress_ratio", 1))
            shape = (pages, block // ratio, spec.head_size)
            apart = torch.zeros((pages, 2, *shape[1:]), dtype=spec.dtype)
            apart[:, 1] = 77  # what lies between the pages
            layer.kv_cache = apart[:, 0]
            self.tables[name] = (1 + torch.randperm(pages - 1, generator=generator)).view(len(lengths), each).int()
            self.blocks[name] = block
            builder = layer.get_attn_backend().get_builder_cls()
            taken = inspect.signature(builder.__init__).parameters
            more = {"block_table_width": each} if "block_table_width" in taken else {}
            self.builders[name] = builder(spec, [name], config, torch.device("cpu"), **more)

    def metadata(self, step: list[tuple[int, int, int]]) -> tuple[dict[str, Any], Any]:
        """Return the metadata of every cache and the positions, of (request, first, end) in order, decodes first."""
        import torch
        from vllm.v1.attention.backend import CommonAttentionMetadata

        counts = [end - first for _, first, end in step]
        starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)
        ends = torch.tensor([end for _, _, end in step], dtype=torch.int32)
        positions = torch.cat([torch.arange(first, end) for _, first, end in step])
        owners = torch.repeat_interleave(torch.tensor([request for request, _, _ in step]), torch.tensor(counts))
        found = {}
        for name, builder in self.builders.items():
            block, table = self.blocks[name], self.tables[name]
            slots = table[owners, positions // block].long() * block + positions % block
            common = CommonAttentionMetadata(
                query_start_loc=starts,
                query_start_loc_cpu=starts,
                seq_lens=ends,
                num_reqs=len(step),
                num_actual_tokens=len(positions),
                max_query_len=max(counts),
                max_seq_len=int(ends.max()),
                block_table_tensor=table[[request for request, _, _ in step]].clone(),
                slot_mapping=slots,
                positions=positions,
                seq_lens_cpu_upper_bound=ends,
            )
            found[name] = builder.build(0, common)
        return found, positions


def copy_weights(ours: Any, oracle: Any) -> None:
    """Give a layer of vLLM the weights of transformers' layer."""
    import torch

    def put(target: Any, *sources: Any) -> None:
        with torch.no_grad():
            target.copy_(torch.cat(sources))

    put(ours.fused_wqa_wkv.weight, oracle.q_a_proj.weight, oracle.kv_proj.weight)
    put(ours.q_norm.weight, oracle.q_a_norm.weight)
    put(ours.kv_norm.weight, oracle.kv_norm.weight)
    put(ours.wq_b.weight, oracle.q_b_proj.weight)
    put(ours.wo_a.weight, oracle.o_a_proj.weight)
    put(ours.wo_b.weight, oracle.o_b_proj.weight)
    put(ours.attn_sink, oracle.sinks)
    pairs = []
    if ours.compressor is not None:
        pairs.append((ours.compressor, oracle.compressor))
    if ours.indexer is not None:
        indexer = oracle.compressor.indexer
        put(ours.indexer.wq_b.weight, indexer.q_b_proj.weight)
        put(ours.indexer.weights_proj.weight, indexer.scorer.weights_proj.weight)
        pairs.append((ours.indexer.compressor, indexer))
    for compressor, source in pairs:
        put(compressor.fused_wkv_wgate.weight, source.kv_proj.weight, source.gate_proj.weight)
        put(compressor.norm.weight, source.kv_norm.weight)
        put(compressor.ape, source.position_bias)


def draw(module: Any, seed: int) -> None:
    """Draw weights as a checkpoint has them, in values that bf16 holds."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            drawn = 1 + 0.3 * drawn
        elif "sinks" not in name and "position_bias" not in name:
            drawn = drawn / weight.shape[-1] ** 0.5
        weight.data = drawn.bfloat16().float()


def as_stored(values: Any) -> Any:
    """Return index queries or keys [..., 128] as e4m3 codes with one power-of-two scale a row stand for them."""
    from dsa_kernels.fp8.naive import naive_quantize_fp8

    codes, scale = naive_quantize_fp8(values.bfloat16())
    return codes.float() * scale


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


def main() -> None:
    request = json.load(sys.stdin)
    if os.environ.get("DSA_DOCTOR_KERNELS") == "triton":
        from tests.dsa_kernels import conftest  # noqa: F401  # teaches the interpreter bf16
    emulated = load(request["root"])
    with emulated.tensors_on("cpu"):
        answers = computed(request)
    OUTPUT.write(json.dumps(answers))
    OUTPUT.flush()
    os._exit(0)


def computed(request: dict[str, Any]) -> dict[str, Any]:
    """Return, without a fault and with each, the answers of the layers: see `compared`."""
    import torch
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as modeling
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.worker.workspace import init_workspace_manager

    from dsa_doctor.plugin.families import deepseek_v4_models  # noqa: F401  # applies the patches, as vLLM's registry does

    write_out_compiled_kernels()
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(request["config"]))
    config = EngineArgs(
        model=str(folder), load_format="dummy", skip_tokenizer_init=True, max_model_len=1024, max_num_seqs=4,
        max_num_batched_tokens=1024, enforce_eager=True,
    ).create_engine_config()  # fmt: skip
    from vllm.models.deepseek_v4.nvidia import model as v4
    from vllm.platforms import current_platform

    torch.set_default_dtype(torch.bfloat16)
    hf_config = config.model_config.hf_config
    hf_config._attn_implementation = "eager"
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, "gloo")
        initialize_model_parallel(1, 1)
        init_workspace_manager(torch.device("cpu"))
        buffer = torch.zeros(1024, hf_config.index_topk, dtype=torch.int32)
        made = [
            v4._select_dsv4_attn_cls(config)(config, prefix=f"model.layers.{layer}.attn", topk_indices_buffer=buffer)
            for layer in range(hf_config.num_hidden_layers)
        ]
        current_platform.update_block_size_for_backend(config)
    torch.set_default_dtype(torch.float32)
    oracles = [modeling.DeepseekV4Attention(hf_config, number).float().eval() for number in range(len(made))]
    for number, (layer, oracle) in enumerate(zip(made, oracles, strict=True)):
        draw(oracle, number)
        copy_weights(layer, oracle)
    generator = torch.Generator().manual_seed(3)
    hidden = [
        torch.randn(length, hf_config.hidden_size, generator=generator).bfloat16() for length in request["lengths"]
    ]
    pairs = list(zip(made, oracles, strict=True))
    rotary = modeling.DeepseekV4RotaryEmbedding(hf_config)
    answers = {"right": compared(config, pairs, rotary, hidden, request["steps"])}
    selecting = [pair for pair in pairs if pair[0].compress_ratio == RATIO]
    for fault in request["faults"]:
        with planted(fault):
            answers[fault] = compared(config, selecting, rotary, hidden, request["steps"][:2])
    return answers


def compared(config: Any, pairs: list[Any], rotary: Any, hidden: list[Any], steps: Any) -> list[dict[str, Any]]:
    """Serve the steps through each layer, on fresh caches, and compare with transformers.

    Returns:
        Of each layer its ratio, the relative error of each token that was served, and the regret of its selection.
    """
    import torch
    from vllm.forward_context import set_forward_context
    from vllm.model_executor.layers import sparse_attn_indexer as indexer_layer

    torch.ops.vllm.sparse_attn_indexer = indexer_layer.sparse_attn_indexer  # registered for CUDA alone
    forward = config.compilation_config.static_forward_context
    names = [layer.prefix for layer, _ in pairs]
    held = {name: one for name, one in forward.items() if hasattr(one, "get_kv_cache_spec")}
    held = {name: one for name, one in held.items() if any(name.startswith(prefix) for prefix in names)}
    caches = Caches(held, config, [len(one) for one in hidden])
    found = [[torch.zeros(one.shape) for one in hidden] for _ in pairs]
    width = config.model_config.hf_config.index_topk
    taken = [torch.full((len(one), width), -1) for one in hidden]
    served = [0 for _ in hidden]
    for step in steps:
        metadata, positions = caches.metadata([tuple(one) for one in step])
        given = torch.cat([hidden[owner][first:end] for owner, first, end in step])
        for number, (layer, _) in enumerate(pairs):
            with torch.no_grad(), set_forward_context(metadata, config, num_tokens=len(positions)):
                out = layer(positions, given).float()
            at = 0
            for owner, first, end in step:
                found[number][owner][first:end] = out[at : at + end - first]
                if layer.indexer is not None:
                    taken[owner][first:end] = layer.topk_indices_buffer[at : at + end - first]
                at, served[owner] = at + end - first, end
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
    main()
