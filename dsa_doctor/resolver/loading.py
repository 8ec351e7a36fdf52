"""Whether the judged vLLM can load a quantised checkpoint, told from its configuration before it is downloaded."""

import re
from collections.abc import Iterator

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.quantization import Quantization, WeightFormat
from dsa_doctor.facts.schema import QuantizationSupport
from dsa_doctor.resolver.judgement import Judgement, finding
from dsa_doctor.verdict.schema import Finding

_FUSED_INDEXERS = ("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")
"""Architectures whose modules have the names below."""
_EXPERT_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_ATTENTION_PROJECTIONS = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "indexer.wq_b")
_SHOWN = 6
_BRING_NO_METHOD = ("dsa_doctor.", "vllm.")
"""Where plugins come from that add no quantisation method: this package, and vLLM's own, which finds LoRA adapters."""
_ALIASES = {"compressed_tensors": "compressed-tensors", "auto_round": "auto-round", "gptqmodel": "gptq"}


def judge_loading(case: Judgement) -> list[Finding]:
    """Return DSA917 where this vLLM cannot load the checkpoint, or its quantisation settings cannot be read."""
    stored = case.model.stored
    if stored is None:
        return []
    fingerprint = case.facts.fingerprint.value
    support = fingerprint.quantization if fingerprint is not None else None
    found = []
    if support is not None:
        stops = _by_kind(_stops(case, stored, support))
        if stops:
            lacks_method = not _is_method(stored, support)
            plugins = case.facts.software.value.vllm_plugins if case.facts.software.value is not None else ()
            added = lacks_method and any(not one.value.startswith(_BRING_NO_METHOD) for one in plugins)
            summary = f"This vLLM cannot load these {stored.method} weights: {stops[0]}."
            evidence = (*stops[1:_SHOWN], f"told from the configuration ({case.model.source}) and from vLLM's sources")
            if added:
                summary = f"This vLLM itself cannot load {stored.method} weights; a plugin of this environment may."
                evidence = (stops[0], *evidence)
            instead = "choose a checkpoint that leaves these modules in bf16, or quantise it anew so"
            if lacks_method:
                instead = f"choose a checkpoint in a format that this vLLM has, or install what adds {stored.method}"
            remedy = (instead, "`dsa-doctor check --facts FILE` judges another vLLM")
            found.append(finding("DSA917", "warn" if added else "fail", summary, evidence=evidence, remedy=remedy))
        elif drafts := _by_kind(_draft_stops(case, stored, support)):
            summary = "Multi-token prediction cannot be used with these weights; without it they load."
            found.append(finding("DSA917", "warn", summary, evidence=tuple(drafts[:_SHOWN])))
    if stored.problems and not found:
        summary = "Quantisation settings of the checkpoint make no sense, and vLLM may refuse them."
        found.append(finding("DSA917", "warn", summary, evidence=stored.problems[:_SHOWN]))
    return found


def _by_kind(stops: Iterator[str]) -> list[str]:
    """Return the first of each kind, with how many more there are of it: layers and experts differ by number alone."""
    kinds: dict[str, list[str]] = {}
    for stop in dict.fromkeys(stops):
        kinds.setdefault(re.sub(r"\b(layers|experts)\.\d+", r"\1", stop), []).append(stop)
    return [first if not rest else f"{first} ({len(rest)} more alike)" for first, *rest in kinds.values()]


def _is_method(stored: Quantization, support: QuantizationSupport) -> bool:
    return _ALIASES.get(stored.method, stored.method) in support.methods or stored.method.startswith("modelopt")


def _stops(case: Judgement, stored: Quantization, support: QuantizationSupport) -> Iterator[str]:
    """Yield what stops the start, the first thing first."""
    if not _is_method(stored, support):
        yield f"it has no quantisation method {stored.method!r}; it has {', '.join(sorted(support.methods))}"
        return
    formats = {rule.format for rule in stored.rules if rule.format is not None}
    yield from (stop for form in formats if (stop := _bits_stop(stored, form, support)))
    yield from (stop for form in formats if (stop := _order_stop(stored, form, support)))
    if case.model.architecture not in _FUSED_INDEXERS:
        return
    if stored.method == "compressed-tensors" and not support.head_by_class and not case.model.tie_word_embeddings:
        head = stored.format_of("lm_head")
        if head is not None and stored.format_of("lm_head", "other") is None:
            yield f"lm_head is {head.name}, and vLLM quantises it only where a target of the settings names it"
    for layer in range(case.model.num_hidden_layers):
        yield from _layer_stops(case, stored, support, layer)


def _bits_stop(stored: Quantization, form: WeightFormat, support: QuantizationSupport) -> str | None:
    served = {"awq": support.awq_bits, "gptq": support.gptq_bits}.get(stored.method, ())
    if not served or not form.is_known or form.bits in served:
        return None
    accepted = " or ".join(str(one) for one in served)
    return f"{stored.method} weights of {form.bits:g} bits; it takes {accepted} bits"


def _order_stop(stored: Quantization, form: WeightFormat, support: QuantizationSupport) -> str | None:
    if not form.ordered:
        return None
    if stored.method == "gptq" and not support.orders_columns_gptq:
        return "desc_act is true, and this vLLM has dropped that activation order"
    if stored.method == "compressed-tensors" and not support.orders_columns:
        return "actorder is group, and this vLLM has dropped that activation order; static is served"
    return None


def _layer_stops(case: Judgement, stored: Quantization, support: QuantizationSupport, layer: int) -> Iterator[str]:
    model, prefix = case.model, f"model.layers.{layer}."
    sparse = model.is_sparse(layer)
    if support.fused_indexer_key and not stored.native and layer not in model.shared_indexer_layer_ids:
        yield from _indexer_stops(stored, support, prefix)
    if not sparse or model.n_shared_experts:
        yield from _mlp_stops(stored, f"{prefix}mlp.shared_experts." if sparse else f"{prefix}mlp.")
    yield from _unlike(stored, [f"{prefix}self_attn.q_a_proj", f"{prefix}self_attn.kv_a_proj_with_mqa"])
    if sparse and support.one_scheme_for_experts:
        numbers = range(model.n_routed_experts) if stored.names_expert_numbers() else range(1)
        names = [f"{prefix}mlp.experts.{number}.{name}" for number in numbers for name in _EXPERT_PROJECTIONS]
        yield from _unlike(stored, names)
    yield from _activation_stops(case, stored, support, prefix, sparse=sparse)


def _indexer_stops(stored: Quantization, support: QuantizationSupport, prefix: str) -> Iterator[str]:
    """Yield what the indexer's fused key projection cannot take: it is bf16, and only an FP8 wk is widened for it."""
    for name in ("wk", "weights_proj"):
        module = f"{prefix}self_attn.indexer.{name}"
        form = stored.format_of(module)
        if form is None or not form.is_known:
            continue
        if name == "wk" and form.name in ("fp8", "mxfp8"):
            if form.scales not in support.widened_key_scales:
                accepted = " or ".join(support.widened_key_scales)
                yield f"{module} is {form.name} with one scale a {form.scales}; it is widened from a scale a {accepted}"
            elif form.module_bytes:
                yield f"{module} has a scale for its inputs, and vLLM loads it into wk_weights_proj, which has none"
        else:
            yield f"{module} is {form.name}, and vLLM loads it into wk_weights_proj, which is never quantised"


def _mlp_stops(stored: Quantization, prefix: str) -> Iterator[str]:
    """Yield what gate_up_proj cannot take; AWQ's exclusions are compared with that fused name, by any part of it."""
    names = [f"{prefix}gate_proj", f"{prefix}up_proj"]
    skipped = next((one for one in stored.substrings() if one in f"{prefix}gate_up_proj"), None)
    if stored.method == "awq" and skipped is not None:
        left = [name for name in names if stored.format_of(name) is not None]
        if left:
            yield f"{skipped!r} in modules_to_not_convert leaves {prefix}gate_up_proj unquantised, and {left[0]} is not"
        return
    yield from _unlike(stored, names)


def _unlike(stored: Quantization, modules: list[str]) -> Iterator[str]:
    """Yield that modules which vLLM fuses into one are stored differently."""
    first = stored.format_of(modules[0])
    other = next((one for one in modules if stored.format_of(one) != first), None)
    if other is not None:
        one, two = (form.name if form is not None else "bf16" for form in (first, stored.format_of(other)))
        if one == two:
            one, two = f"{one} of one kind", "of another"
        yield f"{modules[0]} is {one} and {other} is {two}, and vLLM fuses them: they need one format"


def _activation_stops(
    case: Judgement, stored: Quantization, support: QuantizationSupport, prefix: str, *, sparse: bool
) -> Iterator[str]:
    """Yield int4 weights with quantised activations that no scheme of this vLLM takes on this GPU."""
    if stored.method != "compressed-tensors":
        return
    linear = [f"{prefix}self_attn.o_proj", f"{prefix}mlp.{'shared_experts.' if sparse else ''}down_proj"]
    experts = [f"{prefix}mlp.experts.0.down_proj"] if sparse else []
    for module in (*linear, *experts):
        form = stored.format_of(module)
        if form is None or form.name != "int4" or not form.activations:
            continue
        where = support.int4_fp8_experts if module in experts else support.int4_fp8_linear
        capability = str(case.capability)
        if form.activations == "float8" and where not in ("", capability):
            only = f"only compute capability {where} does" if where else "no GPU does"
            yield f"{module} has int4 weights with FP8 activations; of this vLLM {only}"
        serves = support.int4_int8_experts if module in experts else support.int4_int8_linear
        if form.activations == "int8" and not serves:
            yield f"{module} has int4 weights with int8 activations, for which this vLLM has no scheme on a GPU"


def _draft_stops(case: Judgement, stored: Quantization, support: QuantizationSupport) -> Iterator[str]:
    """Yield why MTP layers cannot draft, stored as the settings say; a checkpoint without them cannot draft either."""
    model = case.model
    if stored.native or model.architecture not in _FUSED_INDEXERS:
        return
    for layer in range(model.num_hidden_layers, model.num_hidden_layers + model.num_nextn_predict_layers):
        prefix = f"model.layers.{layer}."
        projection = stored.format_of(f"{prefix}eh_proj")
        if projection is not None and projection.is_known:
            named = "" if stored.names_layer(layer) else ", unless the quantiser left that layer out altogether"
            yield f"{prefix}eh_proj is {projection.name}, and vLLM's draft model keeps it in bf16{named}"
        packed = next((one for one in _linear_modules(model, prefix) if stored.format_of(one) is not None), None)
        if stored.method == "gptq" and packed is not None and not support.mtp_takes_gptq:
            yield f"{packed} is quantised by GPTQ, and vLLM's draft model has no place for its g_idx"
        yield from _layer_stops(case, stored, support, layer)


def _linear_modules(model: ModelGeometry, prefix: str) -> Iterator[str]:
    """Yield the names of an MTP layer's linear modules, of one expert for all."""
    yield from (f"{prefix}self_attn.{name}" for name in _ATTENTION_PROJECTIONS)
    places = ("experts.0", "shared_experts") if model.n_shared_experts else ("experts.0",)
    yield from (f"{prefix}mlp.{place}.{name}" for place in places for name in _EXPERT_PROJECTIONS)
