"""Runs in a process of its own: the whole of GLM-5.3-Flash under the plugin, computed on the CPU.

vLLM's own model class, its layers, caches and metadata builders run, see `layer_child`, and a checkpoint that
transformers wrote is loaded by vLLM's own loader. Beside what the child of the sparse layer writes out, these kernels
of vLLM are plain references here, each at its own boundary: the convolution and the recurrence of linear attention,
the hyper-connections (vLLM's torch functions) and the experts' products. The answer is logits beside transformers'.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.dsa_doctor.plugin.glm5_next_layer_child import (
    BLOCK,
    Selection,
    layout_for,
    planted,
    write_out_the_row_cache,
)
from tests.dsa_doctor.plugin.layer_child import (
    Caches,
    Ranges,
    constructed,
    deal_out,
    draw,
    engine_config,
    reply,
    write_out_shared_kernels,
)

os.environ.update(VLLM_USE_FUSED_MOE_GROUPED_TOPK="0", VLLM_DISABLE_SHARED_EXPERTS_STREAM="1")


class ModelCaches(Caches):
    """The caches of all layers; a request may begin with the blocks of another (a prefix hit)."""

    def __init__(self, layers: dict[str, Any], config: Any, lengths: list[int], shared: dict[int, int]) -> None:
        """Allocate; a request of `shared` begins with the first block of another."""
        import torch

        self.states: dict[str, Any] = {}
        self.left_behind: Collection[int] = ()
        linear = {name: one for name, one in layers.items() if hasattr(one, "kda_prefill_backend")}
        sparse = {name: one for name, one in layers.items() if name not in linear}
        super().__init__(sparse, config, len(lengths), layout_for(max(lengths)))
        generator = torch.Generator().manual_seed(9)
        each = -(-max(lengths) // BLOCK)
        for name, layer in linear.items():
            spec = layer.get_kv_cache_spec(config)
            blocks = each * len(lengths) + 1
            kinds = zip(spec.shapes, spec.dtypes, strict=True)
            layer.kv_cache = tuple(torch.full((blocks, *shape), 7, dtype=dtype) for shape, dtype in kinds)
            self.states[name], self.blocks[name] = layer.kv_cache, BLOCK
            self.tables[name] = (1 + torch.randperm(blocks - 1, generator=generator)).view(len(lengths), each).int()
            builder = layer.get_attn_backend().get_builder_cls()
            self.builders[name] = builder(spec, [name], config, torch.device("cpu"))
        for name, table in self.tables.items():
            if not name.endswith(".tail_cache"):  # an open pool is its request's own
                for owner, other in shared.items():
                    table[owner, 0] = table[other, 0]

    def metadata(self, step: Ranges) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """As there; a request that enters a block takes its linear layers' states along, as vLLM's runner does."""
        for name, states in self.states.items():
            for owner, first, end in step:
                before, after = (self.tables[name][owner, (token - 1) // BLOCK] for token in (first, end))
                if first and before != after and owner not in self.left_behind:
                    for state in states:
                        state[after] = state[before]
        return super().metadata(step)


class Experts:
    """Stands in for the experts' kernels: keeps which experts each token went to."""

    def __init__(self) -> None:
        self.chosen: dict[int, Any] = {}

    def apply(self, layer: Any, x: Any, topk_weights: Any, topk_ids: Any) -> Any:
        """Return the sum [T, hidden] of the chosen experts' outputs."""
        import torch

        number = int(layer.layer_name.split("layers.")[1].split(".")[0])
        self.chosen[number] = topk_ids.long()
        out = torch.zeros_like(x, dtype=torch.float32)
        for expert in range(len(layer.w13_weight)):
            token, column = torch.where(topk_ids == expert)
            gate, up = (x[token] @ layer.w13_weight[expert].T).float().chunk(2, dim=-1)
            limit = layer.swiglu_limit
            inner = torch.nn.functional.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
            out[token] += (inner.to(x.dtype) @ layer.w2_weight[expert].T).float() * topk_weights[token, column, None]
        return out.to(x.dtype)


class Routing:
    """Stands in for the router of transformers: takes the experts that were taken, and says how good that was."""

    def __init__(self, router: Any) -> None:
        self.router, self.taken, self.regrets = router, None, []
        router.forward = self.choose

    def choose(self, hidden: Any) -> Any:
        """Return logits, weights and ids, of the experts that were taken."""
        import torch

        logits = hidden.view(-1, hidden.shape[-1]).float() @ self.router.weight.float().T
        scores = logits.sigmoid()
        wanted = scores + self.router.e_score_correction_bias
        best = wanted.topk(self.router.top_k).values[:, -1]
        self.regrets += (best - wanted.gather(1, self.taken).min(-1).values).tolist()
        weights = scores.gather(1, self.taken)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * self.router.routed_scaling_factor
        return logits, weights.to(torch.float32), self.taken


def write_out_linear_attention(attention: Any) -> None:
    """Put the references in place of the kernels that the linear layers' module has imported."""
    from tests.dsa_doctor.plugin import linear_attention

    for name in (
        "causal_conv1d_fn", "causal_conv1d_update", "gather_initial_states", "scatter_states",
        "chunk_kda_with_fused_gate", "fused_recurrent_kda",
    ):  # fmt: skip
        setattr(attention, name, getattr(linear_attention, name))


def write_out_hyper_connections() -> None:
    """Give the three ops of the hyper-connections implementations: vLLM's own torch functions, and the norm."""
    import torch

    kernels: Any = importlib.import_module("vllm.model_executor.kernels.mhc.torch")

    def pre(residual: Any, *given: Any) -> tuple[Any, ...]:
        *numbers, _, norm_weight, norm_eps = given
        post, comb, x = kernels.mhc_pre_torch(residual, *numbers)
        normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + norm_eps)
        return post, comb, (normed * norm_weight).to(x.dtype)

    def post_and_pre(x: Any, residual: Any, post: Any, comb: Any, *given: Any) -> tuple[Any, ...]:
        *numbers, splits, _, norm_weight, norm_eps = given
        mixed = kernels.mhc_post_torch(x, residual, post, comb)
        return mixed, *pre(mixed, *numbers, splits, norm_weight, norm_eps)

    torch.ops.vllm.mhc_pre_tilelang = pre
    torch.ops.vllm.mhc_post_tilelang = kernels.mhc_post_torch
    torch.ops.vllm.mhc_fused_post_pre_tilelang = post_and_pre


def written_checkpoint(config: dict[str, Any], folder: Path) -> Any:
    """Write a checkpoint of random weights as transformers does, and return its model in fp32."""
    import torch
    from transformers import Glm5NextConfig, Glm5NextForConditionalGeneration

    theirs = Glm5NextConfig(**{name: value for name, value in config.items() if name != "architectures"})
    theirs._attn_implementation = "eager"
    torch.manual_seed(1)
    oracle = Glm5NextForConditionalGeneration(theirs).float().eval()
    draw(oracle, 3)
    oracle.bfloat16().save_pretrained(folder)
    return oracle.float()


def served_model(config: Any, folder: Path, experts: Experts) -> Any:
    """Construct vLLM's model, and load the checkpoint in a folder into it."""
    import torch
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod as Method
    from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
    from vllm.model_executor.model_loader.weight_utils import safetensors_weights_iterator

    Method.process_weights_after_loading = lambda *_: None
    Method.apply = lambda self, layer, x, topk_weights, topk_ids, *_, **__: experts.apply(
        layer, x, topk_weights, topk_ids
    )

    def loaded() -> Any:
        model = initialize_model(vllm_config=config)
        files = [str(one) for one in folder.glob("*.safetensors")]
        model.load_weights(safetensors_weights_iterator(files, use_tqdm_on_load=False))
        process_weights_after_loading(model, config.model_config, torch.device("cpu"))
        return model

    model = constructed(config, loaded)
    write_out_linear_attention(sys.modules[type(model.language_model.model.layers[0].self_attn).__module__])
    for one in model.modules():
        if hasattr(one, "_use_sparse_mha"):
            one.use_direct_call = True  # the op is registered for CUDA alone
            one._use_sparse_mha = lambda metadata: False  # dense prefill is FlashAttention's
            one.impl.record_logical_topk_ready = lambda: None  # records a stream
        if hasattr(one, "_forward_entry"):
            one._forward_entry = sys.modules[type(one).__module__]._moe_forward_shared
    return model


def computed(request: dict[str, Any]) -> dict[str, Any]:
    """Return, without a fault and with each, the model's answer: see `compared`."""
    import torch

    from dsa_doctor.plugin.families import glm5_next_models  # noqa: F401  # applies the patches

    write_out_shared_kernels()
    write_out_the_row_cache()
    write_out_hyper_connections()
    folder = Path(tempfile.mkdtemp())
    oracle = written_checkpoint(request["config"], folder)
    config = engine_config(request["config"], dtype="bfloat16", compilation_config={"custom_ops": ["none"]})
    config.cache_config.block_size = config.cache_config.mamba_block_size = BLOCK
    experts = Experts()
    model = served_model(config, folder, experts)
    theirs = Oracle(oracle)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(1, 512, (one,), generator=generator) for one in request["lengths"]]
    shared = {int(owner): other for owner, other in request["shared"].items()}
    for owner, other in shared.items():
        prompts[owner][:BLOCK] = prompts[other][:BLOCK]
    answers = {}
    for fault in (None, *request["faults"]):
        with planted(fault if fault != "prefix" else None):
            answers[fault or "right"] = compared(
                config,
                model,
                theirs,
                experts,
                prompts,
                shared,
                request["steps"][: request["steps_with_a_fault"] if fault else None],
                stale=fault == "prefix",
            )
    return answers


class Oracle:
    """transformers' model, which is told what was selected and which experts were taken."""

    def __init__(self, model: Any) -> None:
        self.model = model
        layers = model.model.language_model.layers
        self.routings = {
            number: Routing(layer.mlp.gate) for number, layer in enumerate(layers) if hasattr(layer.mlp, "gate")
        }
        self.selections = {
            number: Selection(layer.self_attn.indexer)
            for number, layer in enumerate(layers)
            if hasattr(layer.self_attn, "indexer")
        }

    def logits(self, prompt: Any, taken: dict[int, Any], experts: dict[int, Any]) -> tuple[Any, list[float]]:
        """Return logits [T, vocabulary], and the regrets of the selections of every layer."""
        import torch

        for number, one in self.selections.items():
            one.taken = taken[number][None]
        for number, routing in self.routings.items():
            routing.taken = experts[number]
        with torch.no_grad():
            logits = self.model(input_ids=prompt[None], use_cache=False).logits[0]
        return logits, [regret for one in self.selections.values() for regret in one.regrets()]


def compared(
    config: Any,
    model: Any,
    oracle: Oracle,
    experts: Experts,
    prompts: list[Any],
    shared: dict[int, int],
    steps: Any,
    *,
    stale: bool = False,
) -> dict[str, Any]:
    """Serve the steps through the model, on fresh caches, and compare with transformers.

    With `stale` a request that begins with another's block does not take the linear layers' states along.

    Returns:
        The relative error of each token's logits, by request; the regrets of selections and of experts.
    """
    import torch
    from vllm.forward_context import set_forward_context

    forward = config.compilation_config.static_forward_context
    held = {name: one for name, one in forward.items() if hasattr(one, "get_kv_cache_spec")}
    caches = ModelCaches(held, config, [len(one) for one in prompts], shared)
    caches.left_behind = shared.keys() if stale else ()
    attention = {
        int(name.split("layers.")[1].split(".")[0]): one
        for name, one in model.named_modules()
        if type(one).__name__ == "Glm5NextMLAAttention"
    }
    width = next(iter(attention.values())).mla_attn.topk_indices_buffer.shape[1]
    taken = {number: [torch.full((len(one), width), -1, dtype=torch.int32) for one in prompts] for number in attention}
    chosen = {number: [torch.zeros(len(one), 2, dtype=torch.long) for one in prompts] for number in oracle.routings}
    found = [torch.zeros(len(one), oracle.model.lm_head.out_features) for one in prompts]
    now: Ranges = []

    def keep(number: int) -> Any:
        return lambda module, given, out: deal_out(now, module.mla_attn.topk_indices_buffer, taken[number])

    hooks = [one.register_forward_hook(keep(number)) for number, one in attention.items()]
    for step in steps:
        now[:] = step
        metadata, slots, positions = caches.metadata(step)
        given = torch.cat([prompts[owner][first:end] for owner, first, end in step])
        context = set_forward_context(metadata, config, num_tokens=len(positions), slot_mapping=slots)
        with torch.no_grad(), context:
            out = model.compute_logits(model(given, positions)).float()
        deal_out(step, out, found)
        for number, rows in chosen.items():
            deal_out(step, experts.chosen[number], rows)
    for hook in hooks:
        hook.remove()
    for owner, other in shared.items():
        for rows in (*taken.values(), *chosen.values()):
            rows[owner][:BLOCK] = rows[other][:BLOCK]
    errors, regrets = {}, []
    for owner, prompt in enumerate(prompts):
        served = max(end for step in steps for one, _, end in step if one == owner)
        right, more = oracle.logits(
            prompt[:served],
            {number: rows[owner][:served] for number, rows in taken.items()},
            {number: rows[owner][:served] for number, rows in chosen.items()},
        )
        error = (found[owner][:served] - right).norm(dim=-1) / right.norm(dim=-1)
        errors[owner] = error[BLOCK if owner in shared else 0 :].tolist()
        regrets += more
    routing = [regret for one in oracle.routings.values() for regret in one.regrets]
    for one in oracle.routings.values():
        one.regrets.clear()
    return {"errors": errors, "regrets": regrets, "routing": routing}


if __name__ == "__main__":
    reply(computed)
