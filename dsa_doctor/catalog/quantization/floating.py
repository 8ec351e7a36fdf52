"""FP8 and FP4 checkpoints: DeepSeek's and transformers' FP8, DeepSeek-V4's FP4 experts, ModelOpt, Quark, MXFP4.

Sources: vLLM's quantization.fp8 (Fp8Config), models.deepseek_v4.quant_config (DeepseekV4FP8Config: expert_dtype and
scale dtype), quantization.modelopt (is_layer_excluded, _resolve_quant_algo, LINEAR_ALGOS), quantization.quark.
"""

from collections.abc import Mapping
from typing import Any

from dsa_doctor.catalog.quantization.formats import (
    FP8_PER_TENSOR,
    MXFP4,
    MXFP8,
    WeightFormat,
    fp8_blocks,
    nvfp4,
    unknown,
)
from dsa_doctor.catalog.quantization.rules import Quantization, Rule, sorted_patterns
from dsa_doctor.catalog.quantization.values import entries, mapping, pair, text, whole

_LINEAR = ("Linear",)
_ROUTED = ("experts",)
_FP8_PER_CHANNEL = WeightFormat(name="fp8", packing="values", bits=8, scales="channel", scale_bytes=4)


def read_fp8(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of an FP8 section; DeepSeek-V4's experts are in MXFP4 unless the model says otherwise."""
    problems: list[str] = []
    model_type = str(config.get("model_type", ""))
    is_v4 = model_type.startswith("deepseek_v4") or text(settings, "quant_method") == "deepseek_v4_fp8"
    experts = (text(config, "expert_dtype") or "fp4") if is_v4 else None
    given = settings.get("weight_block_size")
    block = pair(given)
    if given is not None and block is None:
        problems.append(f"weight_block_size is {str(given)[:40]!r}; accepted: two positive whole numbers")
    scale_bytes = 1 if experts == "fp4" else 4
    if block is not None:
        base = fp8_blocks(*block, scale_bytes=scale_bytes)
    elif given is not None:
        base = unknown("fp8", 8, 9)
    elif text(settings, "activation_scheme") == "static":
        base = FP8_PER_TENSOR.model_copy(update={"module_bytes": 4})
    else:
        base = FP8_PER_TENSOR
    rules = _exclusions(settings, problems, "ignored_layers", "modules_to_not_convert", "ignore")
    routed = _expert_format(settings, experts, problems)
    if routed is not None:
        rules.append(Rule(how="component", patterns=_ROUTED, format=routed))
    rules.append(Rule(how="class", patterns=_LINEAR, format=base))
    method = text(settings, "quant_method") or "fp8"
    return Quantization(method=method, rules=tuple(rules), native=True, problems=tuple(problems))


def _expert_format(settings: Mapping[str, Any], experts: str | None, problems: list[str]) -> WeightFormat | None:
    """Return how routed experts are stored where it is not as the other weights."""
    if text(settings, "moe_quant_algo") == "nvfp4":
        return nvfp4()
    if text(settings, "store_dtype") == "mxfp4" or experts == "fp4":
        return MXFP4
    if experts not in (None, "fp8"):
        problems.append(f"expert_dtype is {experts!r}; accepted: fp4 or fp8")
        return unknown(str(experts), 4, 16)
    return None


def read_fbgemm(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of fbgemm_fp8: one float32 scale an output row."""
    problems: list[str] = []
    rules = _exclusions(settings, problems, "modules_to_not_convert")
    rules.append(Rule(how="class", patterns=_LINEAR, format=_FP8_PER_CHANNEL))
    return Quantization(method="fbgemm_fp8", rules=tuple(rules), native=True, problems=tuple(problems))


def read_mxfp4(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of an mxfp4 section (gpt-oss): routed experts only."""
    problems: list[str] = []
    rules = _exclusions(settings, problems, "modules_to_not_convert")
    rules.append(Rule(how="component", patterns=_ROUTED, format=MXFP4))
    return Quantization(method="mxfp4", rules=tuple(rules), problems=tuple(problems))


def read_modelopt(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of a ModelOpt section, flat as in config.json or nested as in hf_quant_config.json."""
    problems: list[str] = []
    uncertain: list[str] = []
    inner = mapping(settings, "quantization") or dict(settings)
    algorithm = text(inner, "quant_algo") or text(settings, "quant_algo") or ""
    group_size = whole(inner, ("group_size",), problems, least=1, most=2**20)
    keys = ("ignore", "exclude_modules", "modules_to_not_convert")
    excluded = entries(inner, *keys)
    rules = _exclusions(inner, problems, *keys)
    if algorithm == "mixed_precision":
        by_format: dict[WeightFormat, list[str]] = {}
        layers = mapping(inner, "quantized_layers")
        for name, one in layers.items():
            own = mapping(layers, name)
            form = modelopt_format(
                text(own, "quant_algo") or "", whole(own, ("group_size",), problems, least=1, most=2**20)
            )
            by_format.setdefault(form, []).append(name)
            if not isinstance(one, dict):
                problems.append(
                    f"quantized_layers.{name[:60]} is {str(one)[:40]!r}; accepted: an object with quant_algo"
                )
        if not layers:
            problems.append("quantized_layers is empty, and quant_algo is MIXED_PRECISION")
        for form, names in by_format.items():
            found = sorted_patterns(names, plain="component", problems=problems, key="quantized_layers")
            rules += [Rule(how=how, patterns=patterns, format=form) for how, patterns in found.items()]
    else:
        form = modelopt_format(algorithm, group_size)
        if excluded is None:
            uncertain.append("the modules that are left unquantised are not listed")
            rules.append(Rule(how="component", patterns=_ROUTED, format=form))
            form = unknown(form.name, form.bits, 16)
        rules.append(Rule(how="class", patterns=_LINEAR, format=form))
    return Quantization(method="modelopt", rules=tuple(rules), uncertain=tuple(uncertain), problems=tuple(problems))


def modelopt_format(algorithm: str, group_size: int | None) -> WeightFormat:
    """Return how ModelOpt stores the weights of an algorithm (names in lower case)."""
    if algorithm in ("nvfp4", "w4a4_nvfp4"):
        return nvfp4(group_size=group_size or 16)
    if algorithm == "w4a16_nvfp4":
        return nvfp4(group_size=group_size or 16, input_scale=False)
    if algorithm == "fp8":
        return FP8_PER_TENSOR.model_copy(update={"module_bytes": 4})
    if algorithm == "fp8_per_channel_per_token":
        return _FP8_PER_CHANNEL
    if algorithm in ("fp8_pb_wo", "fp8_block_scales"):
        side = group_size or 128
        return fp8_blocks(side, side)
    if algorithm == "mxfp8":
        return MXFP8
    if algorithm == "mxfp4":
        return MXFP4
    wide = 4 if "4" in algorithm else 8 if "8" in algorithm else None
    return unknown(algorithm or "unknown", wide or 1, (wide + 1) if wide else 16)


def read_quark(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of an AMD Quark section: a global format, formats by name, and exclusions."""
    problems: list[str] = []
    rules = _exclusions(settings, problems, "exclude")
    for name, one in mapping(settings, "layer_quant_config").items():
        found = sorted_patterns([name], plain="component", problems=problems, key="layer_quant_config")
        own = one if isinstance(one, dict) else {}
        rules += [Rule(how=how, patterns=patterns, format=_quark_format(own)) for how, patterns in found.items()]
    base = _quark_format(mapping(settings, "global_quant_config"))
    rules.append(Rule(how="class", patterns=_LINEAR, format=base))
    return Quantization(method="quark", rules=tuple(rules), problems=tuple(problems))


def _quark_format(settings: Mapping[str, Any]) -> WeightFormat:
    weight = mapping(settings, "weight")
    dtype, scheme, size = text(weight, "dtype") or "", text(weight, "qscheme") or "", weight.get("group_size")
    if dtype == "fp4" and scheme == "per_group" and size == 32:
        return MXFP4
    if dtype.startswith("fp8"):
        block = pair(weight.get("block_size"))
        if block is not None:
            return fp8_blocks(*block)
        if scheme == "per_tensor":
            return FP8_PER_TENSOR
        if scheme == "per_channel":
            return _FP8_PER_CHANNEL
    bits = next((one for one in (2, 3, 4, 6, 8) if str(one) in dtype), None)
    return unknown(dtype or "unknown", bits or 1, bits + 1 if bits else 16)


def _exclusions(settings: Mapping[str, Any], problems: list[str], *keys: str) -> list[Rule]:
    """Return the rules for modules that a checkpoint leaves in the model's dtype: whole parts of a name, or globs."""
    # vLLM reads the second of two names where the first is empty.
    key = next((one for one in keys if isinstance(settings.get(one), list) and settings[one]), None)
    if key is None:
        return []
    bare = [one.removesuffix(".weight") if isinstance(one, str) else one for one in settings[key]]
    found = sorted_patterns(bare, plain="component", problems=problems, key=key)
    return [Rule(how=how, patterns=patterns, format=None) for how, patterns in found.items()]
