"""Runs in a process of its own: a whole DeepSeek-V4 under the plugin, served by vLLM's scheduler, on the CPU.

vLLM's loader, model and draft classes, cache grouping and allocation, scheduler, prefix cache and metadata builders
run, with compute capability 8.0 in force and their Triton kernels interpreted; the plugin's ops are the references.
What else no CPU runs is in `deepseek_v4_boundaries`. The tokens of each text are given: a draft is right or wrong as
the script says. The answer is how far the logits lie from those of transformers' model on the plain values.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tests.dsa_doctor.plugin import deepseek_v4_layer_child as layers
from tests.dsa_doctor.plugin import layer_child

RATIO = layers.RATIO
VARIABLES = {"VLLM_MULTI_STREAM_GEMM_TOKEN_THRESHOLD": "0", "VLLM_DISABLE_SHARED_EXPERTS_STREAM": "1"}
"""Of the environment: there is no second stream."""


class Taken:
    """What the model under test chose, by layer and position of each text: compressed rows, experts."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.experts: list[Any] = []

    def record_rows(self, attention: Any) -> None:
        """Keep what a layer selected, whenever it attends."""
        from dsa_doctor.plugin.families import deepseek_v4_attention as ours

        attend = ours.TritonDeepseekV4Attention.forward_mqa
        taken = self

        def forward_mqa(layer: Any, q: Any, *given: Any) -> None:
            attend(layer, q, *given)
            if layer.compress_ratio == RATIO:
                taken.rows.append(layer.topk_indices_buffer[: q.shape[0]].clone())

        attention.forward_mqa = forward_mqa

    def take(self) -> tuple[list[Any], list[Any]]:
        """Return what one step chose, by layer, and start anew."""
        found = self.rows, self.experts
        self.rows, self.experts = [], []
        return found


class Served:
    """A model and its draft with their caches, as a worker holds them, and vLLM's scheduler before them."""

    def __init__(self, config: Any, taken: Taken) -> None:
        import torch
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader import get_model_loader
        from vllm.platforms import current_platform
        from vllm.v1.worker.gpu import attn_utils

        self.config, self.taken = config, taken
        config.load_config.device = "cpu"
        loader = get_model_loader(config.load_config)
        with set_current_vllm_config(config):
            self.model = loader.load_model(vllm_config=config, model_config=config.model_config)
            self.draft = loader.load_model(
                vllm_config=config, model_config=config.speculative_config.draft_model_config, prefix="draft"
            )
            self.draft.model.embed_tokens = self.model.model.embed_tokens
            for stage in self.draft.model.layers.values():
                stage.shared_head.head = self.model.lm_head
            current_platform.update_block_size_for_backend(config)
            for module in (*self.model.modules(), *self.draft.modules()):
                for name in {"aux_stream", "aux_stream_list"} & vars(module).keys():
                    setattr(module, name, None)  # there is no second stream
            self.caches = self._group()
            self.groups, _, sizes = attn_utils.init_attn_backend(self.caches, config, torch.device("cpu"))
            self.forward_context = config.compilation_config.static_forward_context
            attn_utils.init_kv_cache(self.forward_context, self.caches, torch.device("cpu"), sizes, config)

    def _group(self) -> Any:
        """Group and size the caches as the engine does."""
        from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
        from vllm.v1.core import kv_cache_planning
        from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

        specs = get_kv_cache_spec(self.config)
        layers_ = self.config.compilation_config.static_forward_context.values()
        backends = dict.fromkeys(one.get_attn_backend() for one in layers_ if hasattr(one, "get_attn_backend"))
        names = [one.name for one in get_supported_kv_cache_layouts(backends)]
        resolve_kv_cache_layout(self.config, [names], specs.values())
        groups = kv_cache_planning.get_global_kv_cache_groups(self.config, [specs])
        (made,) = kv_cache_planning.get_kv_cache_configs(self.config, [specs], [64 * 2**20], groups)
        made.kv_cache_layout = self.config.cache_config.kv_cache_layout
        self.config.cache_config.num_gpu_blocks = made.num_blocks
        return made

    def scheduler(self) -> tuple[Any, Any]:
        """Return a fresh scheduler, as the engine makes it, and what hashes the blocks of a request; empty caches."""
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core import kv_cache_utils
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
        from vllm.v1.structured_output import StructuredOutputManager

        register_all_kvcache_specs(self.config)
        for layer in self.forward_context.values():
            if hasattr(layer, "kv_cache"):
                layer.kv_cache.zero_()
        caches = kv_cache_utils.generate_scheduler_kv_cache_config([self.caches])
        block, hashed = kv_cache_utils.resolve_kv_cache_block_sizes(caches, self.config)
        function = get_hash_fn_by_name(self.config.cache_config.prefix_caching_hash_algo)
        kv_cache_utils.init_none_hash(function)
        made = Scheduler(
            self.config, caches, StructuredOutputManager(self.config), block_size=block, hash_block_size=hashed
        )
        look = self.config.num_hash_lookahead_tokens
        return made, kv_cache_utils.get_request_block_hasher(hashed, function, look)

    def forward(
        self, step: list[tuple[str, int, int]], tables: dict[str, Any], tokens: dict[str, Any], texts: dict[str, Any]
    ) -> Any:
        """Run the model and its draft on (text, first position, end) in order, decoding ones first.

        Args:
            step: what to compute.
            tables: blocks of each text, by group of caches.
            tokens: given to the model; a wrong draft stands where it is to be refused.
            texts: what stands there in truth; the draft is given the token after each.

        Returns:
            Logits of the model and of the draft [T, vocabulary], and what was chosen on the way.
        """
        import torch
        from vllm.forward_context import set_forward_context
        from vllm.v1.worker.gpu.attn_utils import build_attn_metadata, build_slot_mappings_by_layer

        counts = [end - first for _, first, end in step]
        starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)
        ends = torch.tensor([end for _, _, end in step], dtype=torch.int32)
        positions = torch.cat([torch.arange(first, end) for _, first, end in step])
        owners = torch.repeat_interleave(torch.arange(len(step)), torch.tensor(counts))
        blocks: list[Any] = []
        slots: list[Any] = []
        for group in self.caches.kv_cache_groups:
            size = group.kv_cache_spec.block_size
            rows = [tables[name][len(blocks)] for name, _, _ in step]
            width = -(-self.config.model_config.max_model_len // size)
            table = torch.zeros(len(step), width, dtype=torch.int32)
            for number, row in enumerate(rows):
                table[number, : len(row)] = torch.tensor(row)
            blocks.append(table)
            slots.append(table[owners, positions // size].long() * size + positions % size)
        metadata = build_attn_metadata(
            self.groups,
            num_reqs=len(step),
            num_tokens=len(positions),
            query_start_loc_gpu=starts,
            query_start_loc_cpu=starts,
            max_query_len=max(counts),
            seq_lens=ends,
            max_seq_len=int(ends.max()),
            block_tables=blocks,
            slot_mappings=torch.stack(slots),
            kv_cache_config=self.caches,
            seq_lens_cpu_upper_bound=ends,
            positions=positions,
        )
        mapping = build_slot_mappings_by_layer(torch.stack(slots), self.caches)
        given = torch.cat([tokens[name][first:end] for name, first, end in step])
        following = torch.cat([texts[name][first + 1 : end + 1] for name, first, end in step])
        context = {"num_tokens": len(positions), "slot_mapping": mapping}
        with torch.no_grad(), set_forward_context(metadata, self.config, **context):
            logits = self.model.compute_logits(self.model(given, positions))
            hidden = self.model.get_mtp_target_hidden_states()[: len(positions)]
            drafted = self.draft.compute_logits(self.draft(following, positions, hidden))
        return logits.float(), drafted.float(), self.taken.take()


class Answers:
    """Logits of the model and of its draft, and what was chosen, by text and position."""

    def __init__(self, texts: dict[str, Any]) -> None:
        self.logits: dict[str, dict[int, Any]] = {name: {} for name in texts}
        self.drafted: dict[str, dict[int, Any]] = {name: {} for name in texts}
        self.rows: dict[str, dict[int, Any]] = {name: {} for name in texts}
        self.experts: dict[str, dict[int, Any]] = {name: {} for name in texts}
        self.hits: dict[str, int] = {}
        self.steps: list[list[tuple[str, int, int]]] = []

    def keep(self, name: str, position: int, at: int, found: tuple[Any, Any, Any]) -> None:
        """Keep row `at` of a step as the answer at a position of a text."""
        logits, drafted, (rows, experts) = found
        self.logits[name][position], self.drafted[name][position] = logits[at], drafted[at]
        self.rows[name][position] = [one[at] for one in rows]
        self.experts[name][position] = [one[at] for one in experts]


def serve(served: Served, waves: list[dict[str, int]], texts: dict[str, Any], before_step: Any) -> Answers:
    """Serve texts through vLLM's scheduler, some after others have ended.

    Args:
        waves: {name: tokens of the prompt}; what follows a prompt is generated, with one draft at a time, which is
            wrong before every third token.
        texts: all tokens of each text and one more.
        before_step: called with the served model and the answers so far.
    """
    from vllm import SamplingParams
    from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
    from vllm.v1.request import Request

    scheduler, hasher = served.scheduler()
    answers = Answers(texts)
    tables: dict[str, Any] = {}
    computed: dict[str, int] = {}
    for wave in waves:
        for name, prompt in wave.items():
            asked = SamplingParams(max_tokens=len(texts[name]) - 1 - prompt, ignore_eos=True, temperature=0)
            asked.update_from_generation_config({}, None)
            scheduler.add_request(Request(name, texts[name][:prompt].tolist(), asked, None, block_hasher=hasher))
        while scheduler.has_unfinished_requests():
            plan = scheduler.schedule()
            for new in plan.scheduled_new_reqs:
                tables[new.req_id] = [list(one) for one in new.block_ids]
                computed[new.req_id] = answers.hits[new.req_id] = new.num_computed_tokens
            cached = plan.scheduled_cached_reqs
            assert not cached.resumed_req_ids
            for name, more, done in zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True):
                computed[name] = done
                for table, blocks in zip(tables[name], more or [[]] * len(tables[name]), strict=True):
                    table += blocks
            order = sorted(plan.num_scheduled_tokens.items(), key=lambda one: one[1] > 2)
            step = [(name, computed[name], computed[name] + count) for name, count in order]
            answers.steps.append(step)
            before_step(served, answers, tables)
            given = {name: texts[name].clone() for name, _, _ in step}
            for name, _, end in step:
                drafts = plan.scheduled_spec_decode_tokens.get(name, [])
                given[name][end - len(drafts) : end] = given[name].new_tensor(drafts)
            found = served.forward(step, tables, given, texts)
            sampled, drafted, at = [], [], 0
            for name, first, end in step:
                right = int((given[name][first:end] == texts[name][first:end]).sum())
                for position in range(first, first + right):
                    answers.keep(name, position, at + position - first, found)
                at += end - first
                known = scheduler.requests[name].num_tokens
                tokens = texts[name][known : first + right + 1].tolist()
                sampled.append(tokens)
                next_token = int(texts[name][min(known + len(tokens), len(texts[name]) - 1)])
                drafted.append([next_token if (known + len(tokens)) % 3 else next_token ^ 1])
            names = [name for name, _, _ in step]
            scheduler.update_from_output(
                plan, ModelRunnerOutput(names, {name: number for number, name in enumerate(names)}, sampled)
            )
            scheduler.update_draft_token_ids(DraftTokenIds(names, drafted))
    return answers


class Oracle:
    """transformers' model on the plain values in fp32, with the choices of the model under test forced upon it."""

    def __init__(self, folder: str, config: Any) -> None:
        import torch
        from safetensors.torch import load_file
        from transformers import DeepseekV4ForCausalLM
        from transformers.models.deepseek_v4 import modeling_deepseek_v4 as modeling

        self.model = DeepseekV4ForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        ).eval()
        plain = load_file(f"{folder}/model.safetensors")
        every = self.model.model.layers
        self.stage, self.model.model.layers = every[-1], every[:-1]
        self.tensors = {
            name.removeprefix("mtp.0."): value for name, value in plain.items() if name.startswith("mtp.0.")
        }
        self.head = modeling.DeepseekV4HyperHead(self.model.config).eval()
        self.head.load_state_dict({name.replace("hc_head_", "hc_"): self.tensors[name] for name in (
            "hc_head_fn", "hc_head_base", "hc_head_scale")})  # fmt: skip
        self.eps = config.rms_norm_eps
        self.selecting = next(
            layer.self_attn.compressor.indexer
            for layer in self.model.model.layers
            if layer.self_attn.layer_type == "compressed_sparse_attention"
        )
        self.routers = [layer.mlp.gate for layer in every]
        self.chosen: list[Any] = []
        self.scores: list[Any] = []
        for number, router in enumerate(self.routers):
            router.forward = self._route(number, router)

    def _route(self, number: int, router: Any) -> Any:
        import torch

        def forward(hidden: Any, *tokens: Any) -> Any:
            logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), router.weight)
            scores = torch.nn.functional.softplus(logits).sqrt()
            picks = self.chosen[number]
            if hasattr(router, "tid2eid"):
                assert (picks == router.tid2eid[tokens[0].reshape(-1)]).all()
                self.scores.append(None)
            else:
                self.scores.append(scores + router.e_score_correction_bias)
            taken = scores.gather(1, picks)
            return logits, taken / taken.sum(-1, keepdim=True) * router.routed_scaling_factor, picks

        return forward

    def norm(self, values: Any, name: str) -> Any:
        """RMSNorm by a weight of the draft."""
        import torch

        normed = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + self.eps)
        return normed * self.tensors[f"{name}.weight"]

    def answer(self, text: Any, rows: Any, experts: list[Any]) -> dict[str, Any]:
        """Return logits of the model and of the draft [T, vocabulary], and the regrets of what was chosen.

        Args:
            text: [T + 1] tokens; the last is not given to the model.
            rows: [T, k] selected compressed rows, -1 where there are fewer.
            experts: [T, picks] of each layer, the draft's last.
        """
        import torch

        self.chosen, self.scores = [one.long() for one in experts], []
        selection = layers.Selection(self.selecting)
        selection.taken = rows[None, :, : min(rows.shape[1], (len(text) - 1) // RATIO)]
        streams: list[Any] = []
        hook = self.model.model.hc_head.register_forward_pre_hook(lambda module, given: streams.append(given[0]))
        with torch.no_grad():
            logits = self.model(input_ids=text[None, :-1], use_cache=False).logits[0]
            drafted = self._draft(text, streams[0])
        hook.remove()
        self.selecting.forward, self.selecting.scorer.forward = selection.exact, selection.score
        return {
            "logits": logits, "drafted": drafted, "rows": selection.regrets(),
            "experts": [self._regret(by, picks) for by, picks in zip(self.scores, self.chosen, strict=True)],
        }  # fmt: skip

    def _draft(self, text: Any, streams: Any) -> Any:
        import torch

        model, tokens = self.model.model, len(text) - 1
        following = model.embed_tokens(text[1:])
        following[0] = 0  # vLLM's draft has no token before the first
        linear = torch.nn.functional.linear
        given = linear(self.norm(following, "enorm"), self.tensors["e_proj.weight"]).unsqueeze(1)
        hidden = given + linear(self.norm(streams[0], "hnorm"), self.tensors["h_proj.weight"])
        positions = torch.arange(tokens)[None]
        angles = {
            kind: model.rotary_emb(hidden, position_ids=positions, layer_type=kind) for kind in ("main", "compress")
        }
        distance = positions[0][:, None] - positions[0][None, :]
        seen = (distance >= 0) & (distance < self.model.config.sliding_window)
        mask = torch.zeros(1, 1, tokens, tokens).masked_fill(~seen, float("-inf"))
        out = self.stage(
            hidden[None], position_embeddings=angles, position_ids=positions, attention_mask=mask,
            input_ids=text[None, 1:], past_key_values=None,
        )  # fmt: skip
        return self.model.lm_head(self.norm(self.head(out)[0], "norm"))

    @staticmethod
    def _regret(by: Any, picks: Any) -> float:
        """Return by how much the worst choice of any token scores below the worst that is to be chosen."""
        if by is None:
            return 0.0
        assert all(len(one.unique()) == len(one) for one in picks)
        return float((by.topk(picks.shape[1]).values[:, -1] - by.gather(1, picks).amin(-1)).max())


@contextlib.contextmanager
def planted(fault: str) -> Iterator[Any]:
    """Break one thing while entered ("none": nothing); gives what is to be called before each step."""
    from dsa_doctor.plugin import ops

    def nothing(*_: Any) -> None:
        pass

    if fault == "state":
        yield mistake_states
    elif fault == "product":
        multiply = ops.hc_prenorm_gemm

        def without_a_tail(x: Any, fn: Any, *given: Any) -> None:
            multiply(x, fn * (fn.new_ones(fn.shape[1]).cumsum(0) <= fn.shape[1] - 64), *given)

        with mock.patch.object(ops, "hc_prenorm_gemm", without_a_tail):
            yield nothing
    else:
        with layers.planted(fault if fault != "none" else None):
            yield nothing


def mistake_states(served: Served, answers: Answers, tables: dict[str, Any]) -> None:
    """Put other states below what a text found in the prefix cache, before its first step."""
    import torch

    generator = torch.Generator().manual_seed(9)
    for name, first, _ in answers.steps[-1]:
        if not first or answers.hits[name] != first or answers.logits[name]:
            continue
        for number, group in enumerate(served.caches.kv_cache_groups):
            for layer in group.layer_names:
                if "state" in type(served.forward_context[layer]).__name__.lower():
                    kept = tables[name][number][: first // group.kv_cache_spec.block_size]
                    cache = served.forward_context[layer].kv_cache
                    cache[kept] = torch.randn(cache[kept].shape, generator=generator)


def compare(found: Answers, oracle: Oracle, texts: dict[str, Any]) -> dict[str, Any]:
    """Return, by text, relative errors of the logits by position, and the largest regrets."""
    import torch

    answers = {}
    for name, whole in texts.items():
        text, first = whole[:-1], found.hits[name]  # the last token that is generated is given to nobody
        served = list(range(first, len(text) - 1))
        assert set(served) <= set(found.logits[name]), name
        # What the prefix cache held was chosen when it was computed, for a text with the same beginning.
        other = next(
            (one for one in texts if found.hits[one] == 0 and (texts[one][:first] == text[:first]).all()), name
        )
        rows, experts = ({**kind[other], **kind[name]} for kind in (found.rows, found.experts))
        every = range(len(text) - 1)
        right = oracle.answer(
            text,
            torch.stack([rows[at][0] for at in every]),
            [torch.stack([experts[at][number] for at in every]) for number in range(len(oracle.routers))],
        )
        answers[name] = {
            "first": first,
            "rows": max(right["rows"][first:]),
            "experts": max(right["experts"]),
            **{
                kind: [float((row[at] - right[kind][at]).norm() / right[kind][at].norm()) for at in served]
                for kind, row in (("logits", found.logits[name]), ("drafted", found.drafted[name]))
            },
        }
    return answers


def computed(request: dict[str, Any]) -> dict[str, Any]:
    """Return, for each planted fault ("none" among them), the steps that were served and `compare` of every text."""
    import torch
    from vllm.platforms import current_platform

    current_platform.dispatch_key = "CPU"  # where vLLM registers its own ops, as it imports its layers
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.worker.workspace import init_workspace_manager

    from dsa_doctor.plugin.families import deepseek_v4_attention as attention
    from dsa_doctor.plugin.families import deepseek_v4_models  # noqa: F401  # applies the patches
    from tests.dsa_doctor.plugin import deepseek_v4_boundaries

    layer_child.write_out_shared_kernels()
    layers.write_out_the_insert()
    folder, taken = request["folder"], Taken()
    taken.record_rows(attention.TritonDeepseekV4Attention)
    deepseek_v4_boundaries.write_out(lambda picked: taken.experts.append(picked.clone()))
    config = EngineArgs(
        model=f"{folder}/stored", skip_tokenizer_init=True, max_model_len=512, max_num_seqs=4,
        max_num_batched_tokens=request["budget"], enforce_eager=True, enable_prefix_caching=True,
        async_scheduling=False, speculative_config={"method": "mtp", "num_speculative_tokens": 1},
    ).create_engine_config()  # fmt: skip
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, "gloo")
        initialize_model_parallel(1, 1)
        init_workspace_manager(torch.device("cpu"))
    served = Served(config, taken)
    oracle = Oracle(f"{folder}/plain", config.model_config.hf_config)
    texts = {name: torch.tensor(text) for name, text in request["texts"].items()}
    answers = {}
    for fault, waves in request["waves"].items():
        asked = {name: texts[name] for wave in waves for name in wave}
        with planted(fault) as before_step, set_current_vllm_config(config):
            found = serve(served, waves, asked, before_step)
        answers[fault] = {"steps": found.steps, "texts": compare(found, oracle, asked)}
    return answers


if __name__ == "__main__":
    layer_child.reply(computed)
