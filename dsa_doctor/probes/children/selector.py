"""Asks the installed vLLM's own attention backend selector, with a target's capability in force.

Request: {"emulation": path of emulation.py, "search_path": [folder], "queries": [query], "plugins": [name],
"unloadable": "host" | "any", "timeout": seconds, "serve_parsers": [module]}, where a query has the fields of
SelectorQuery; with serve_parsers the options of `vllm serve` are told too, from the first that exists.
Answer: {"version": str | None, "failure": {"stage", "cause", "evidence"} | None, "flashinfer": bool | None,
"answers": [answer], "loaded": see loaded.py}, where an answer has the fields of SelectorAnswer but the query.
"""

import dataclasses
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

_REFUSALS = ("No valid attention backend", "Selected backend")


class Failure(Exception):  # noqa: N818 - it is carried, not shown as an error of this script
    """No question can be answered; `stage` says how far it came."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__(str(error))
        self.stage = stage
        self.error = error


def main() -> None:
    """Read the request, answer it, and leave without the interpreter's clean-up, which costs a second."""
    faulthandler.enable()
    gc.disable()  # tens of thousands of modules' objects are made here, and none of them is garbage
    loaded = importlib.import_module("loaded")
    loaded.watch()
    importlib.import_module("shortcuts").install()
    follow = importlib.import_module("import_path").follow
    request = json.load(sys.stdin)
    follow(request["search_path"])
    # A hang shows where: the fault handler even where the interpreter is held, the timer with the place last.
    faulthandler.dump_traceback_later(request["timeout"] * 0.8)
    timer = threading.Timer(request["timeout"] * 0.9, _show_place, [sys._current_frames, threading.get_ident()])
    timer.daemon = True
    timer.start()
    answer: dict[str, Any] = {"version": None, "failure": None, "flashinfer": None, "answers": []}
    try:
        _run(request, answer)
    except Failure as failure:
        lines = traceback.format_exception(failure.error)
        answer["failure"] = {"stage": failure.stage, "cause": _last_line(failure.error), "evidence": lines[-3:]}
    answer["loaded"] = loaded.report()
    with os.fdopen(int(os.environ["DSA_DOCTOR_ANSWER_FD"]), "w") as stream:
        json.dump(answer, stream)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _show_place(frames: Callable[[], dict[int, FrameType]], thread: int) -> None:
    sys.stderr.write("".join(traceback.format_stack(frames()[thread])[-3:]))
    sys.stderr.flush()


def _run(request: dict[str, Any], answer: dict[str, Any]) -> None:
    emulation = _load(request["emulation"])
    first = request["queries"][0]["capability"] if request["queries"] else "9.0"
    try:
        emulated = emulation.install(first, unloadable=request["unloadable"])
        import vllm
    except BaseException as error:
        raise Failure("import", error) from error
    answer["version"] = str(getattr(vllm, "__version__", "unknown"))
    try:
        platform = emulated.platform()
    except (ImportError, OSError) as error:
        raise Failure("platform", error) from error
    except BaseException as error:
        raise Failure("shape", error) from error
    try:
        if request["plugins"]:
            from vllm.plugins import load_general_plugins

            load_general_plugins()
        asker = Asker(emulated, platform)
    except BaseException as error:
        raise Failure("shape", error) from error
    with emulated.tensors_on("meta"):  # some backends allocate a workspace while they are imported
        for query in request["queries"]:
            answer["answers"].append(asker.ask(query))
    answer["flashinfer"] = asker.flashinfer()
    if request["serve_parsers"]:
        answer["serve_options"] = _serve_options(request["serve_parsers"])


class Asker:
    """vLLM's selector, its configuration classes and the emulated platform."""

    def __init__(self, emulated: Any, platform: Any) -> None:
        import torch
        import vllm.config
        from vllm.v1.attention.backends.registry import AttentionBackendEnum
        from vllm.v1.attention.selector import get_attn_backend

        self._torch = torch
        self._config = vllm.config
        self._emulated = emulated
        self._select = get_attn_backend
        self._names = AttentionBackendEnum
        self._platform = platform
        self._seen: dict[str, Any] = {}
        self._observe()

    def _observe(self) -> None:
        """Keep what vLLM's own calls are given and return, so that one real run yields the choice and the reasons."""
        owner, seen = type(self._platform), self._seen
        choose, validate = owner.get_attn_backend_cls, owner.get_valid_backends

        def get_attn_backend_cls(*arguments: Any, **options: Any) -> Any:
            seen["config"] = options["attn_selector_config"] if "attn_selector_config" in options else arguments[1]
            return choose(*arguments, **options)

        def get_valid_backends(*arguments: Any, **options: Any) -> Any:
            seen["validated"] = validate(*arguments, **options)
            return seen["validated"]

        owner.get_attn_backend_cls = staticmethod(get_attn_backend_cls)
        owner.get_valid_backends = staticmethod(get_valid_backends)

    def ask(self, query: dict[str, Any]) -> dict[str, Any]:
        """Return vLLM's answer to one query; never raises."""
        self._seen.clear()
        answer: dict[str, Any] = {"chosen": None, "candidates": [], "error": None, "broke": False}
        try:
            self._emulated.set_capability(query["capability"])
            try:
                self._ask(query, self._light_config(query), answer)
            except (AttributeError, TypeError):  # vLLM reads more of its configuration than is made here
                self._ask(query, self._full_config(query), answer)
        except Exception as error:
            answer["error"] = _first_line(error)
            # Anything but vLLM's own two refusals says nothing about the backends.
            answer["broke"] = not (isinstance(error, ValueError) and str(error).startswith(_REFUSALS))
            if answer["broke"]:
                traceback.print_exc()
        try:
            answer["candidates"] = self._candidates(query)
            answer["deep_gemm_supported"] = self._deep_gemm_supported()
        except Exception as error:
            answer["error"] = answer["error"] or _first_line(error)
            answer["broke"] = True
            traceback.print_exc()
        answer["assumed"] = list(self._emulated.assumed)
        return answer

    def _ask(self, query: dict[str, Any], config: Any, answer: dict[str, Any]) -> None:
        with self._config.set_current_vllm_config(config):
            self._seen["current"] = config
            backend = self._select(
                query["head_size"],
                getattr(self._torch, query["dtype"]),
                query["kv_cache_dtype"],
                use_mla=True,
                use_sparse=True,
                num_heads=query["num_heads"],
            )
            answer["chosen"] = self._name_of(backend)
            answer["kv_cache_dtype"] = _canonical_kv_cache_dtype(backend, query["kv_cache_dtype"])
            answer["block_size"] = query["block_size"] or _block_size(backend, config)

    def _light_config(self, query: dict[str, Any]) -> Any:
        """Make a real VllmConfig that holds what the selector reads: the rest costs seconds of unrelated imports."""
        config = object.__new__(self._config.VllmConfig)
        parallel = object.__new__(self._config.ParallelConfig)
        for field in dataclasses.fields(self._config.ParallelConfig):
            default = getattr(field.default, "default", field.default)
            if isinstance(default, (int, str, type(None))):
                object.__setattr__(parallel, field.name, default)
        for name, value in {
            "attention_config": self._config.AttentionConfig(backend=self._backend(query)),
            "cache_config": self._config.CacheConfig(**_given(block_size=query["block_size"])),
            "parallel_config": parallel,
            "model_config": self._model_config(query),
            "kv_transfer_config": None,
            "speculative_config": None,
        }.items():
            object.__setattr__(config, name, value)
        return config

    def _full_config(self, query: dict[str, Any]) -> Any:
        config = self._config.VllmConfig(
            attention_config=self._config.AttentionConfig(backend=self._backend(query)),
            cache_config=self._config.CacheConfig(**_given(block_size=query["block_size"])),
        )
        object.__setattr__(config, "model_config", self._model_config(query))
        return config

    def _backend(self, query: dict[str, Any]) -> Any:
        return None if query["backend"] is None else self._names[query["backend"].upper()]

    def _model_config(self, query: dict[str, Any]) -> Any:
        """Make a real ModelConfig that holds the geometry which backends check; None where the query gives none."""
        names = ("qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank", "index_topk")
        geometry = {name: query[name] for name in names if query.get(name) is not None}
        if not geometry:
            return None
        config = object.__new__(self._config.ModelConfig)
        text = SimpleNamespace(num_attention_heads=query["num_heads"], **geometry)
        arch = SimpleNamespace(
            total_num_attention_heads=query["num_heads"], head_size=query["head_size"], rswa_window=None
        )
        for name, value in {"hf_config": text, "hf_text_config": text, "model_arch_config": arch}.items():
            object.__setattr__(config, name, value)
        return config

    def _name_of(self, backend: Any) -> str:
        valid, _ = self._seen.get("validated", ([], {}))
        return str(next((one.backend.name for one in valid if one.backend_class is backend), backend.get_name()))

    def _candidates(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Return vLLM's word on each backend, in its order of priority; one asked for by name comes first."""
        config, current = self._seen.get("config"), self._seen.get("current")
        if config is None:
            return []
        with self._config.set_current_vllm_config(current):
            capability = self._platform.get_device_capability()
            if "validated" not in self._seen:
                self._platform.get_valid_backends(
                    device_capability=capability, attn_selector_config=config, num_heads=query["num_heads"]
                )
            valid, invalid = self._seen["validated"]
            listed: list[tuple[int, str, list[str]]] = [(one.priority, one.backend.name, []) for one in valid]
            listed += [(priority, backend.name, list(reasons)) for backend, (priority, reasons) in invalid.items()]
            backend = self._backend(query)
            if backend is not None:
                listed = [one for one in listed if one[1] != backend.name]
                listed.append((-1, backend.name, self._reasons(backend, capability, config)))
        return [
            {"name": name, "accepted": not reasons, "reasons": reasons}
            for _, name, reasons in sorted(listed, key=_first)
        ]

    def _reasons(self, backend: Any, capability: Any, config: Any) -> list[str]:
        try:
            return list(backend.get_class().validate_configuration(device_capability=capability, **config._asdict()))
        except (ImportError, OSError) as error:
            return [f"{type(error).__name__}: {error}"]

    def _deep_gemm_supported(self) -> bool | None:
        """Ask whether vLLM takes the architecture for one that DeepGEMM supports, its presence assumed."""
        import vllm.utils.deep_gemm as deep_gemm

        function = getattr(deep_gemm, "is_deep_gemm_supported", None)
        if function is None or not hasattr(deep_gemm, "has_deep_gemm"):
            return None
        present, deep_gemm.has_deep_gemm = deep_gemm.has_deep_gemm, lambda: True
        try:
            return bool(getattr(function, "__wrapped__", function)())
        finally:
            deep_gemm.has_deep_gemm = present

    def flashinfer(self) -> bool | None:
        """Return whether vLLM takes FlashInfer for usable in this environment; several backends depend on it."""
        try:
            from vllm.utils.flashinfer import has_flashinfer

            return bool(has_flashinfer())
        except Exception:
            return None


def _serve_options(modules: list[str]) -> dict[str, Any]:
    """Return {"options": [{"names", "values"}]} of vLLM's own parser, or {"error": why it could not be built}."""
    try:
        module = _first_module(modules)
        parser = module.make_arg_parser(module.FlexibleArgumentParser(prog="vllm serve"))
        options = [
            {"names": list(action.option_strings), "values": _values(action)}
            for action in parser._actions
            if action.option_strings
        ]
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {"error": _last_line(error)}
    return {"options": options} if options else {"error": "vLLM's parser lists no option"}


def _first_module(names: list[str]) -> ModuleType:
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only where the module itself is not there: one that it needs is another matter.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
    raise ImportError(f"none of {', '.join(names)} is there")


def _values(action: Any) -> list[str] | None:
    """Return the values that an option lists, as choices or in braces where others may be registered."""
    if action.choices is not None:
        return [str(one) for one in action.choices]
    listed = re.match(r"\{([^{}]*)\}", action.metavar) if isinstance(action.metavar, str) else None
    return None if listed is None else listed.group(1).split(",")


def _canonical_kv_cache_dtype(backend: Any, kv_cache_dtype: str) -> str | None:
    """Return the KV cache format that vLLM's MLA layer makes of the one asked for, once it knows the backend."""
    module = sys.modules.get("vllm.model_executor.layers.attention.mla_attention")
    function = getattr(module, "_canonicalize_sparse_mla_kv_cache_dtype", None)
    return None if function is None else str(function(backend, kv_cache_dtype))


def _block_size(backend: Any, config: Any) -> int | None:
    """Return the block size that the backend prefers where the user names none."""
    prefer = getattr(backend, "get_preferred_block_size", None)
    return None if prefer is None else int(prefer(config.cache_config.block_size))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _first(entry: tuple[int, str, list[str]]) -> int:
    return entry[0]


def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dsa_doctor_emulation", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _first_line(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, ValueError) and text.startswith(_REFUSALS) else f"{type(error).__name__}: {text}"


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


if __name__ == "__main__":
    main()
