"""Layer 3 of the plugin: replaces what the indexer calls. Applied once per process, all or nothing."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch

from dsa_doctor.compat.patches import PATCHES, PRESENT, Patch, signature_state
from dsa_doctor.plugin import stand_ins

_INDEXER = "vllm.model_executor.layers.sparse_attn_indexer"
_BUILDER = "vllm.v1.attention.backends.mla.indexer"
_CUSTOM_OPS = "vllm._custom_ops"
_GENERIC_MODEL = "vllm.model_executor.models.deepseek_v2"
_PACKING = "vllm.v1.attention.ops.common"

_applied: dict[str, bool] = {}


class PatchTargetError(RuntimeError):
    """A patch target is not what the ledger says; nothing has been replaced."""


def is_applied() -> bool:
    """Whether this process's indexer runs on the plugin's ops."""
    return _applied.get("done", False)


def apply() -> None:
    """Replace every target of layer 3 in this process; does nothing the second time.

    Raises:
        PatchTargetError: a target moved or another plugin replaced it; nothing has been replaced then.
    """
    if is_applied():
        return
    replacements = _replacements()
    for holder, name, replacement in replacements:
        setattr(holder, name, replacement)
    _applied["done"] = True


def _replacements() -> list[tuple[Any, str, Any]]:
    """Import the targets, verify them as objects, and return what is to be set where."""
    loaded = {name: importlib.import_module(name) for name in (_INDEXER, _BUILDER, _CUSTOM_OPS, _GENERIC_MODEL)}
    for patch in PATCHES:
        if patch.use == "replaced" and patch.kind == "function" and patch.module in loaded:
            _verify(loaded[patch.module], patch)
    layer, builder = loaded[_INDEXER], loaded[_BUILDER]
    custom_ops, generic = loaded[_CUSTOM_OPS], loaded[_GENERIC_MODEL]
    compressed = "max_seqlen_k" in inspect.signature(layer.fp8_fp4_mqa_logits).parameters
    found: list[tuple[Any, str, Any]] = [
        (layer, "has_deep_gemm", _always),
        (layer, "fp8_fp4_mqa_logits", stand_ins.compressed_mqa_logits if compressed else stand_ins.full_mqa_logits),
        (layer, "fp8_fp4_paged_mqa_logits", stand_ins.paged_mqa_logits),
        (layer, "pack_seq_triton", stand_ins.pack_sequences),
        (layer, "unpack_seq_triton", stand_ins.unpack_sequences),
        (builder, "has_deep_gemm", _never),
        (custom_ops, "top_k_per_row_prefill", stand_ins.top_k_per_row_prefill),
        (custom_ops, "top_k_per_row_decode", stand_ins.top_k_per_row_decode),
        (generic, "fused_indexer_q_rope_quant", stand_ins.fused_indexer_q_rope_quant),
        # torch keeps the ops it has looked up as attributes of the namespace; no dispatcher registration is touched.
        (torch.ops._C, "persistent_topk", stand_ins.decode_topk),
        (torch.ops._C, "cooperative_topk", stand_ins.decode_topk),
    ]
    kernel = getattr(importlib.import_module(_PACKING), "_PACK_SEQ_TRITON_KERNEL", None)
    if kernel is not None:
        found.append((kernel, "register_warmup", _no_warmup))
    return found


def _verify(module: Any, patch: Patch) -> None:
    target: Any = module
    for part in patch.name.split("."):
        target = getattr(target, part, None)
    if not callable(target):
        raise PatchTargetError(f"{patch.target} is missing, so dsa-doctor's plugin replaced nothing")
    state = signature_state(_parameters(target), patch)
    if state != PRESENT:
        raise PatchTargetError(f"{patch.target} is {state}; dsa-doctor's plugin replaced nothing")


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    marks: dict[object, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.KEYWORD_ONLY: "*,",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return tuple(marks.get(one.kind, "") + one.name for one in inspect.signature(function).parameters.values())


def _always() -> bool:
    """Answer the indexer's guard: its logits are served, by other kernels than DeepGEMM's."""
    return True


def _never() -> bool:
    """Answer the metadata builder: no DeepGEMM schedule is needed."""
    return False


def _no_warmup(*_arguments: Any, **_keywords: Any) -> None:
    """Register nothing: the Triton kernel that packs an fp8 query is not used."""
