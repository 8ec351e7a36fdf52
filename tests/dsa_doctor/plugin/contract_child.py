"""Steps that a vLLM release takes in a process of its own, with a compute capability in force and no GPU.

See `tests.emulated_vllm`. vLLM's selector, configuration and model classes are its own. Stubbed are its compiled
modules (their op schemas are defined, without code) and the subprocess that inspects a model class, which would see no
emulation.
"""

import contextlib
import inspect
import io
import json
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

Tensors = Sequence[tuple[str, Any]]
MTP = {"method": "mtp", "num_speculative_tokens": 1}


class Unloaded:
    """A copy of this process as it is now, before the plugin is loaded, that waits for one pickled configuration.

    A spawned engine process reads its configuration in that state; a fresh process would import vLLM once more.
    """

    def __init__(self) -> None:
        given, self._request = os.pipe()
        self._answer, found = os.pipe()
        if os.fork() == 0:
            os.close(self._request)
            with os.fdopen(given, "rb") as request, os.fdopen(found, "w") as answer:
                pickled = request.read()  # ends at once, and empty, where nobody asks and this process ends
                try:
                    answer.write(str(pickle.loads(pickled).backend) if pickled else "")
                except BaseException as error:
                    answer.write(f"{type(error).__name__}: {error}")
            os._exit(0)
        os.close(given)
        os.close(found)

    def unpickle_backend(self, pickled: bytes) -> str:
        """Return the name of the backend of a pickled AttentionConfig, or the error that unpickling it raised."""
        with os.fdopen(self._request, "wb") as request:
            request.write(pickled)
        with os.fdopen(self._answer) as answer:
            return answer.read()


class Release:
    """The release under test in this process."""

    def __init__(self, emulated: Any) -> None:
        self.scratch = tempfile.mkdtemp()
        self.emulation = emulated
        self.log = io.StringIO()
        from dsa_doctor.facts.observation import Observation
        from dsa_doctor.facts.schema import Csrc
        from dsa_doctor.plugin import report

        report.compiled_side = lambda environment: Observation[Csrc].unknown("placeholders stand for compiled modules")
        self.distributed = False
        self._stand_in_for_a_device()
        self.unloaded = Unloaded()

    @staticmethod
    def _stand_in_for_a_device() -> None:
        """DeepSeek-V4.1's engram asks the GPU for its multiprocessors when it is constructed."""
        from types import SimpleNamespace

        import torch

        torch.accelerator.current_device_index = lambda: 0
        torch.cuda.get_device_properties = lambda *_: SimpleNamespace(multi_processor_count=108)

    def listen(self) -> None:
        """Start a fresh log of the plugin's lines.

        As a filter: vLLM configures logging anew now and then, which drops handlers of its loggers' children.
        """
        import logging

        self.log.truncate(0)
        self.log.seek(0)

        def record(line: logging.LogRecord) -> bool:
            self.log.write(f"{line.levelname} {line.getMessage()}\n")
            return True

        logger = logging.getLogger("vllm.dsa_doctor")
        logger.filters = [record]
        logger.setLevel(logging.INFO)

    def step_capability(self, value: str) -> None:
        """Put another capability in force, as a fresh process on that GPU would have it."""
        self.emulation.set_capability(value)

    def step_environment(self, **variables: str) -> None:
        """Set environment variables of this process."""
        os.environ.update(variables)

    def step_assume_deep_gemm(self) -> None:
        """Let DeepGEMM count as installed, as where the native path is at home."""
        self.emulation.assume_deep_gemm()

    def step_register(self, mode: str = "auto", again: bool = True) -> str:
        """Load the plugin as vLLM would, and return what was logged."""
        from dsa_doctor.plugin import entry
        from dsa_doctor.plugin.state import STATE

        os.environ["DSA_DOCTOR_PLUGIN"] = mode
        if again:
            STATE.registered = False
        self.listen()
        entry.register()
        return self.log.getvalue()

    def step_stand_down_seconds(self) -> float:
        """Return how long the first call of register takes in a process where the plugin stands down."""
        import time

        start = time.perf_counter()
        self.step_register()
        return time.perf_counter() - start

    def step_fault(self, kind: str) -> dict[str, Any]:
        """Register the plugin in a process with something wrong, and return its log and what it left behind."""
        from vllm.platforms import cuda
        from vllm.v1.attention.backends import registry

        custom = registry.AttentionBackendEnum.CUSTOM
        hidden = {"dsa_kernels": "dsa_kernels", "triton": "triton", "import": "dsa_doctor.plugin.activation"}.get(kind)
        priorities = cuda._get_backend_priorities
        undo: list[Any] = []
        if hidden is not None:
            original = sys.modules.get(hidden)
            sys.modules[hidden] = None  # type: ignore[assignment]  # Python's way to say: not importable
            undo.append(lambda: sys.modules.pop(hidden) if original is None else sys.modules.update({hidden: original}))
        elif kind == "custom":
            registry.register_backend(custom, "another_plugin.Backend")
            undo.append(custom.clear_override)
        elif kind == "in-tree":
            member = registry.AttentionBackendEnum.register("TRITON_MLA_SPARSE", "vllm.fake.Backend")
            undo.append(lambda: registry.AttentionBackendEnum._member_map_.pop(member.name))
        try:
            log = self.step_register()
        finally:
            for step in undo:
                step()
        return {
            "log": log,
            "alias": "TRITON_MLA_SPARSE" in registry.AttentionBackendEnum.__members__,
            "priorities": cuda._get_backend_priorities is not priorities,
            "override": registry._ATTN_OVERRIDES.get(custom),
        }

    def step_taken_later(self) -> dict[str, Any]:
        """Let another plugin take CUSTOM after ours did, and ask the selector."""
        from vllm.v1.attention.backends import registry

        self.listen()
        for value in ("8.6", "8.0"):  # forgets what the selector has cached
            self.emulation.set_capability(value)
        registry.register_backend(registry.AttentionBackendEnum.CUSTOM, "another_plugin.Backend")
        try:
            chosen = self.step_select()
        except ValueError as error:
            chosen = str(error)
        return {"chosen": chosen, "log": self.log.getvalue()}

    def step_select(self, backend: str | None = None, kv_cache_dtype: str | None = None) -> str:
        """Ask vLLM's selector for a sparse-MLA backend."""
        import inspect

        import torch
        from vllm.config import AttentionConfig, VllmConfig, set_current_vllm_config
        from vllm.v1.attention.selector import get_attn_backend

        arguments: dict[str, Any] = {"use_mla": True, "use_sparse": True}
        if "block_size" in inspect.signature(get_attn_backend).parameters:
            arguments["block_size"] = 64
        config = VllmConfig(attention_config=AttentionConfig(backend=backend))
        with set_current_vllm_config(config), self.emulation.tensors_on("meta"):
            return str(get_attn_backend(576, torch.bfloat16, kv_cache_dtype, **arguments).get_name())

    def engine_config(self, config: dict[str, Any], *, tensors: Tensors = (), **arguments: Any) -> Any:
        """Return vLLM's whole configuration of a server for a checkpoint of this config.json and these tensors."""
        from vllm.engine.arg_utils import EngineArgs

        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        (folder / "config.json").write_text(json.dumps(config))
        if config.get("text_config", {}).get("engram_layer_ids"):  # its hashes are of a tokenizer's words
            from tests.dsa_doctor.plugin.tiny_models import write_tokenizer

            write_tokenizer(folder)
            arguments = {**arguments, "tokenizer": str(folder)}
        if tensors:
            from tests.dsa_doctor.plugin.quantised_checkpoints import write_headers

            write_headers(folder / "model.safetensors", tensors)
        defaults = {"load_format": "dummy", "skip_tokenizer_init": True, "max_model_len": 4096, "max_num_seqs": 8}
        return EngineArgs(model=str(folder), **{**defaults, **arguments}).create_engine_config()

    def step_projection_dtypes(self) -> dict[str, str]:
        """Return the dtype that dense prefill casts its latents to, by the dtype that kv_b_proj is stored in."""
        from types import SimpleNamespace

        import torch
        from vllm.model_executor.layers.attention import mla_attention

        from dsa_doctor.plugin.projection import ProjectionInModelDtype

        ask = getattr(mla_attention, "_get_kv_b_proj_input_dtype", None)
        answers = {}
        for stored in (torch.int8, torch.int32, torch.uint8, torch.bfloat16):
            layer = SimpleNamespace(weight=torch.empty(1, dtype=stored), params_dtype=torch.bfloat16)
            seen = ProjectionInModelDtype(layer)
            answers[str(stored)] = str(ask(seen, False) if ask is not None else seen.weight.dtype)
        return answers

    def step_configure(
        self, config: dict[str, Any], environment: dict[str, str] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Make the server's configuration, and return what the plugin decides there."""
        from dsa_doctor.plugin.state import STATE

        STATE.judged.clear()
        self.listen()
        # Elsewhere vLLM is to load no plugin by itself; a server that judges itself has loaded this one.
        with mock.patch.dict(os.environ, {**(environment or {}), "VLLM_PLUGINS": "dsa_doctor"}):
            made = self.engine_config(config, **arguments)
        return {"kv_cache_dtype": str(made.cache_config.cache_dtype), "log": self.log.getvalue()}

    @contextlib.contextmanager
    def constructing(self, made: Any) -> Iterator[None]:
        """While entered, models can be constructed for a server's configuration, on the meta device."""
        import torch
        from vllm.config import set_current_vllm_config
        from vllm.distributed import init_distributed_environment, initialize_model_parallel

        torch.set_default_dtype(torch.bfloat16)
        with set_current_vllm_config(made):
            if not self.distributed:
                init_distributed_environment(1, 0, f"file://{self.scratch}/rendezvous", 0, "gloo")
                initialize_model_parallel(1, 1)
                self.distributed = True
            with self.emulation.tensors_on("meta"), torch.device("meta"), _pageable():
                yield

    def parts_of(self, made: Any) -> list[Any]:
        """Construct a server's model, and its draft where it has one, without weights."""
        from vllm.model_executor.model_loader.utils import initialize_model

        with self.constructing(made):
            parts = [initialize_model(made)]
            if made.speculative_config is not None:
                speculative = made.speculative_config.draft_model_config
                parts.append(initialize_model(made, prefix="draft", model_config=speculative))
        return parts

    def step_construct(self, config: dict[str, Any], draft: bool = False, **arguments: Any) -> dict[str, Any]:
        """Construct the whole model without weights, and describe its attention layers."""
        if draft:
            arguments["speculative_config"] = MTP
        made = self.engine_config(config, **arguments)
        parts = self.parts_of(made)
        model = parts[0]
        layers = [layer for layer in made.compilation_config.static_forward_context.values() if hasattr(layer, "impl")]
        indexers = [one for part in parts for one in part.modules() if type(one).__name__ == "Indexer"]
        return {
            "model": f"{type(model).__module__}:{type(model).__name__}",
            "draft": [f"{type(part).__module__}:{type(part).__name__}" for part in parts[1:]],
            "backends": sorted({layer.attn_backend.get_name() for layer in layers}),
            "attention_layers": len(layers),
            "indexers": len(indexers),
            "fused_query": [bool(one.use_fused_indexer_q) for one in indexers],
            "query_module": sys.modules[type(indexers[0]).__module__].fused_indexer_q_rope_quant.__module__,
            "kv_formats": sorted({layer.impl.kv_format for layer in layers}),
            "kv_cache_dtypes": sorted({str(layer.kv_cache_dtype) for layer in layers}),
            "projections": sorted({type(layer.impl.kv_b_proj).__name__ for layer in layers}),
            "block_sizes": _sizes(layers[0].attn_backend.get_supported_kernel_block_sizes()),
            "deep_gemm_imported": "deep_gemm" in sys.modules or "vllm.third_party.deep_gemm" in sys.modules,
        }

    def step_asked(self, config: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        """Construct the model of a server that may ask for the plugin; in a copy of this process, which it changes."""
        given, answer = os.pipe()
        if (copy := os.fork()) == 0:
            with os.fdopen(answer, "w") as file:
                try:
                    found: dict[str, Any] = {"value": self._asked(config, **arguments)}
                except BaseException as error:
                    found = {"error": f"{type(error).__name__}: {error}"}
                json.dump(found, file)
            os._exit(0)
        os.close(answer)
        with os.fdopen(given) as file:
            found = json.load(file)
        os.waitpid(copy, 0)
        if "error" in found:
            raise RuntimeError(found["error"])
        return dict(found["value"])

    def _asked(self, config: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        from dsa_doctor.plugin import patching

        self.listen()
        with mock.patch.dict(os.environ, {"VLLM_PLUGINS": "dsa_doctor"}):
            made = self.engine_config(config, **arguments)
            mode = os.environ.get("DSA_DOCTOR_PLUGIN", "auto")
        self.parts_of(made)
        layers = [one for one in made.compilation_config.static_forward_context.values() if hasattr(one, "impl")]
        sparse = [one for one in layers if one.attn_backend.is_sparse()]
        return {
            "mode": mode,
            "backends": sorted({one.attn_backend.get_name() for one in sparse}),
            "kv_formats": sorted({getattr(one.impl, "kv_format", "") for one in sparse}),
            "patched": patching.is_applied(),
            "log": self.log.getvalue(),
        }

    def step_invariance(self, config: dict[str, Any]) -> dict[str, Any]:
        """Construct a model, and return what each layer's backend says of batch invariance, as a worker asks it."""
        from dsa_doctor.plugin.state import STATE

        STATE.judged.clear()
        self.listen()
        with mock.patch.dict(os.environ, {"VLLM_PLUGINS": "dsa_doctor"}):
            made = self.engine_config(config)
        self.parts_of(made)
        layers = made.compilation_config.static_forward_context.values()
        backends = [layer.get_attn_backend() for layer in layers if hasattr(layer, "get_attn_backend")]
        return {
            "backends": {backend.get_name(): bool(backend.supports_batch_invariance()) for backend in backends},
            "all prompts alike": made.attention_config.sparse_mla_force_mqa,
            "log": self.log.getvalue(),
        }

    def step_construct_v4(self, config: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        """Construct a whole DeepSeek-V4 without weights; describe its attention, caches and warm-up."""
        from vllm.config import set_current_vllm_config
        from vllm.platforms import current_platform

        compiled = self.registered_kernels()
        made = self.engine_config(config, **arguments)
        parts = self.parts_of(made)
        forward = made.compilation_config.static_forward_context
        with set_current_vllm_config(made):
            current_platform.update_block_size_for_backend(made)
            caches = [layer for layer in forward.values() if hasattr(layer, "get_kv_cache_spec")]
            specs = [layer.get_kv_cache_spec(made) for layer in caches]
        attention = [layer for layer in forward.values() if hasattr(layer, "compress_ratio") and hasattr(layer, "wo_a")]
        return {
            "model": f"{type(parts[0]).__module__}:{type(parts[0]).__name__}",
            "drafts": [f"{type(part).__module__}:{type(part).__name__}" for part in parts[1:]],
            "classes": sorted({f"{type(one).__module__}:{type(one).__name__}" for one in attention}),
            "ratios": [one.compress_ratio for one in attention],
            "backends": sorted({one.get_attn_backend().get_name() for one in attention}),
            "windows": sorted(
                {one.swa_cache_layer.get_attn_backend().get_builder_cls().__module__ for one in attention}
            ),
            "heads": sorted({(one.n_local_heads, one.padded_heads) for one in attention}),
            "projections": sorted(
                {one.wo_a.quant_method.process_weights_after_loading.__module__ for one in attention}
            ),
            "block_size": made.cache_config.block_size,
            "cache_dtype": str(made.cache_config.cache_dtype),
            "pages": sorted({one.page_size_bytes for one in specs if one is not None}),
            "dtypes": sorted({str(one.dtype) for one in specs if one is not None}),
            "compiled": sorted(compiled),
        }

    @staticmethod
    def registered_kernels() -> set[str]:
        """Collect, from here on, the kernels that a start would compile; none before vLLM had such a registry."""
        compiled: set[str] = set()
        try:
            from vllm.model_executor.warmup.jit_warmup import VllmJitKernel
        except ImportError:
            return compiled
        original = getattr(VllmJitKernel, "register_warmup", None)
        if original is None:
            return compiled

        def register(kernel: Any, *given: Any, **named: Any) -> Any:
            compiled.add(type(kernel).__name__)
            return original(kernel, *given, **named)

        VllmJitKernel.register_warmup = register  # type: ignore[method-assign]
        return compiled

    def step_construct_pooled(
        self, config: dict[str, Any], draft: bool = False, assume_deep_gemm: bool = False, **arguments: Any
    ) -> dict[str, Any]:
        """As `step_construct`, for a model whose indexer pools keys; with its KV cache as vLLM would lay it out."""
        from vllm.config import set_current_vllm_config
        from vllm.platforms import current_platform

        if assume_deep_gemm:
            self.emulation.assume_deep_gemm()
        if draft:
            arguments["speculative_config"] = {"method": "mtp", "num_speculative_tokens": 1}
        made = self.engine_config(config, **arguments)
        parts = self.parts_of(made)
        context = made.compilation_config.static_forward_context
        sparse = [
            layer for layer in context.values() if hasattr(layer, "impl") and hasattr(layer, "topk_indices_buffer")
        ]
        sparse = sparse or [layer for layer in context.values() if hasattr(getattr(layer, "impl", None), "kv_b_proj")]
        indexers = [one for part in parts for one in part.modules() if type(one).__name__ == "Indexer"]
        attention, op = (sys.modules[type(one).__module__] for one in (indexers[0], indexers[0].indexer_op))
        logits = op if hasattr(op, "fp8_fp4_mqa_logits") else sys.modules["vllm.utils.deep_gemm"]
        described = {
            "parts": [f"{type(part).__module__}:{type(part).__name__}" for part in parts],
            "backends": sorted({layer.attn_backend.get_name() for layer in sparse}),
            "attention_layers": len(sparse),
            "indexers": len(indexers),
            "head_sizes": sorted({layer.impl.head_size for layer in sparse}),
            "widths": sorted({layer.impl.topk_indices_buffer.shape[1] for layer in sparse}),
            "ours": sorted(
                name
                for holder, name in (
                    (op, "has_deep_gemm"),
                    (logits, "fp8_fp4_mqa_logits"),
                    (logits, "fp8_fp4_paged_mqa_logits"),
                    (op, "pack_seq_triton"),
                    (op, "unpack_seq_triton"),
                    (attention, "fwht128_quant_fp8"),
                    (attention, "_pad_indexer_heads"),
                    (op, "_kpool_compress_insert"),
                    (op.kpool_ops, "kpool_seed_tail_cache"),
                    (op.kpool_ops, "kpool_decode_update_and_maybe_write_cache_batched"),
                )
                if getattr(holder, name).__module__.startswith("dsa_doctor.")
            ),
        }
        with set_current_vllm_config(made):
            current_platform.update_block_size_for_backend(made)
            described["kv"] = _kv_cache(made)
        return described

    def step_load(self, config: dict[str, Any], stored: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """Construct model and draft as a server does, and load a checkpoint into each.

        Args:
            config: its config.json.
            stored: the config.json that its tensors were written by, where that is another.

        Returns:
            for "model" and "draft": {"error": ...} where it stops, which leaves the draft out; else the parameters that
            got no weight, and the classes through which dense prefill sees kv_b_proj.
        """
        from vllm.config import replace

        from tests.dsa_doctor.plugin.quantised_checkpoints import checkpoint

        answers: dict[str, dict[str, Any]] = {}
        try:
            tensors = list(checkpoint(stored or config))
            made = self.engine_config(config, tensors=tensors, speculative_config=MTP)
            answers["model"] = self._loaded(made, tensors)
            # The proposer drafts under a copy of the server's configuration, which shares the quantisation settings.
            drafting = replace(made, attention_config=replace(made.attention_config, backend=None))
            answers["draft"] = self._loaded(drafting, tensors, model_config=made.speculative_config.draft_model_config)
        except Exception as error:
            sys.stderr.write(traceback.format_exc())
            answers["draft" if "model" in answers else "model"] = {"error": f"{type(error).__name__}: {error}"}
        return answers

    def _loaded(self, made: Any, tensors: Tensors, **options: Any) -> dict[str, Any]:
        from vllm.model_executor.model_loader.utils import initialize_model

        with self.constructing(made):
            model = initialize_model(made, **options)
            loaded = model.load_weights(iter(tensors))
        layers = [one for one in model.modules() if hasattr(one, "impl")]
        return {
            "missed": sorted(set(dict(model.named_parameters())) - loaded),
            "backends": sorted({one.attn_backend.get_name() for one in layers}),
            "projections": sorted({type(one.impl.kv_b_proj).__name__ for one in layers}),
            "indexers": sum(type(one).__name__ == "Indexer" for one in model.modules()),
        }

    def step_spawn(self, config: dict[str, Any]) -> str:
        """Pickle a configuration that names the backend, and return the name as a spawned engine process reads it."""
        made = self.engine_config(config, attention_backend="TRITON_MLA_SPARSE")
        return self.unloaded.unpickle_backend(pickle.dumps(made.attention_config))

    def step_cuda_untouched(self) -> bool:
        """Whether CUDA is still uninitialised."""
        import torch

        return not torch.cuda.is_initialized()


def _pageable() -> Any:
    """While entered, memory that is asked for as pinned is not: without a driver there is none."""
    from torch.overrides import TorchFunctionMode

    class Pageable(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            options = dict(options or {})
            if options.get("pin_memory"):
                options["pin_memory"] = False
            return function(*arguments, **options)

    return Pageable()


def _sizes(sizes: list[Any]) -> list[Any]:
    """Return kernel block sizes as JSON can hold them: a multiple of 64 as [64]."""
    return [one if isinstance(one, int) else [one.base] for one in sizes]


def _no_kernel(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *_: None


class _NoBuilder:
    """In place of builders of attention metadata, some of which ask a GPU: the layout of the cache needs none."""

    requires_block_table_width = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def set_kernel_block_size(self, *arguments: Any) -> None:
        """Some releases tell the builder."""

    @classmethod
    def get_cudagraph_support(cls, *arguments: Any) -> Any:
        from vllm.v1.attention.backend import AttentionCGSupport

        return AttentionCGSupport.NEVER


def _kv_cache(made: Any) -> dict[str, Any]:
    """Return what vLLM makes of 1 GiB: tokens of a block, and each group's blocks and views of the cache by backend."""
    from types import ModuleType

    import torch
    from vllm.v1.core import kv_cache_utils

    # The module of Mamba's kernels needs a GPU to be imported.
    kernels = ModuleType("vllm.model_executor.layers.mamba.mamba_mixer2")
    kernels.__getattr__ = _no_kernel  # type: ignore[method-assign]
    sys.modules.setdefault(kernels.__name__, kernels)
    from vllm.v1.worker.gpu import attn_utils

    context = made.compilation_config.static_forward_context
    specs = dict(attn_utils.get_kv_cache_spec(made))
    backends = {name: context[name].get_attn_backend() for name in specs}
    planning: Any = kv_cache_utils
    with contextlib.suppress(ImportError):
        from vllm.v1.core import kv_cache_planning as planning
    with contextlib.suppress(ImportError):
        from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout

        names = [one.name for one in get_supported_kv_cache_layouts(dict.fromkeys(backends.values()))]
        resolve_kv_cache_layout(made, [names], specs.values())
    grouped = getattr(planning, "get_global_kv_cache_groups", None)
    arguments = [grouped(made, [specs])] if grouped is not None else []
    (plan,) = planning.get_kv_cache_configs(made, [specs], [1 << 30], *arguments)
    for backend in backends.values():
        backend.get_builder_cls = staticmethod(lambda: _NoBuilder)
    groups, _, sizes = attn_utils.init_attn_backend(plan, made, torch.device("cpu"))
    options = {"attn_groups": [one for group in groups for one in group]}
    known = inspect.signature(attn_utils.init_kv_cache).parameters
    given = {name: value for name, value in options.items() if name in known}
    attn_utils.init_kv_cache(context, plan, torch.device("cpu"), sizes, made, **given)
    return {
        "block": made.cache_config.block_size,
        "groups": [
            {
                "backends": sorted({backends[name].get_name() for name in kept.layer_names}),
                "block": kept.kv_cache_spec.block_size,
                "kernel_block": size,
                "views": {
                    backends[name].get_name(): list(context[name].kv_cache.shape)
                    for name in kept.layer_names
                    if isinstance(context[name].kv_cache, torch.Tensor)
                },
                "strides": {
                    backends[name].get_name(): list(context[name].kv_cache.stride())
                    for name in kept.layer_names
                    if isinstance(context[name].kv_cache, torch.Tensor)
                },
            }
            for kept, size in zip(plan.kv_cache_groups, sizes, strict=True)
        ],
    }


def answer(request: dict[str, Any], emulated: Any) -> list[dict[str, Any]]:
    """Take the steps, and return for each {"value": ...} or {"error": ...}."""
    release = Release(emulated)
    answers = []
    for name, arguments in request["steps"]:
        try:
            answers.append({"value": getattr(release, f"step_{name}")(**arguments)})
        except Exception as error:
            sys.stderr.write(traceback.format_exc())
            answers.append({"error": f"{type(error).__name__}: {error}"})
    return answers
