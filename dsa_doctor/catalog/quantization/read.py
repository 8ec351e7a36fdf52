"""From a parsed config.json to its quantisation, whatever the method; one that is not known is said to be unknown."""

import re
from collections.abc import Mapping
from typing import Any

from dsa_doctor.catalog.quantization import compressed, floating, integer
from dsa_doctor.catalog.quantization.formats import WeightFormat, unknown
from dsa_doctor.catalog.quantization.rules import Quantization, Rule, sorted_patterns
from dsa_doctor.catalog.quantization.values import entries, flag, mapping, text

_DTYPE_BYTES = {"float32": 4, "float": 4, "float64": 8}
_ON_LOAD = ("experts_int8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only")
"""Methods by which vLLM quantises while it loads: the checkpoint itself holds the model's dtype."""
_HINT_KEYS = ("bits", "w_bit", "weight_bits", "num_bits", "nbits", "wbits", "bits_per_weight")
_LOWEST_BITS = 1.0
_HIGHEST_BITS = 16.0


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the quantisation section of a configuration, text_config's where a wrapper has none; empty without one."""
    inner = mapping(config, "text_config")
    for source in (config, inner):
        for key in ("quantization_config", "compression_config"):
            found = mapping(source, key)
            if found:
                # compression_config is compressed-tensors' older key; some writers nest one section in the other.
                return mapping(found, "quantization_config") or found
    return {}


def method_of(settings: Mapping[str, Any]) -> str | None:
    """Return the quant_method of a section in lower case, told from its keys where it is not written."""
    named = text(settings, "quant_method")
    if named is not None:
        return named
    if "config_groups" in settings and not text(settings, "quant_algo"):
        return "compressed-tensors"
    inner = mapping(settings, "quantization") or settings
    return "modelopt" if text(inner, "quant_algo") else None


def method_name(config: Mapping[str, Any]) -> str | None:
    """Return the quant_method of a configuration as it is written there, or ModelOpt's algorithm where it has none."""
    settings = settings_of(config)
    return text(settings, "quant_method") or text(mapping(settings, "quantization") or settings, "quant_algo")


def kv_cache_quantization(config: Mapping[str, Any]) -> str | None:
    """Return the KV cache dtype that the checkpoint's quantisation metadata asks vLLM for, or None.

    ModelOpt writes kv_cache_quant_algo (flat, or nested under "quantization"); compressed-tensors kv_cache_scheme.
    """
    settings = settings_of(config)
    for source in (settings, mapping(settings, "quantization")):
        algorithm = text(source, "kv_cache_quant_algo")
        if algorithm is not None:
            return algorithm
        scheme = mapping(source, "kv_cache_scheme")
        if scheme.get("num_bits") == 8:
            return "fp8" if scheme.get("type") == "float" else "int8"
    return None


def read_quantization(config: Mapping[str, Any]) -> Quantization | None:
    """Return how a checkpoint stores its weights; None where it is not quantised. Never raises.

    Args:
        config: a parsed config.json, with hf_quant_config.json as its quantization_config where that lies apart.
    """
    settings = settings_of(config)
    method = method_of(settings)
    if method is None:
        return _unnamed(settings) if settings else None
    dtype = (text(config, "dtype", "torch_dtype") or "").removeprefix("torch.")
    width = _DTYPE_BYTES.get(dtype, 2)
    if method in ("compressed-tensors", "compressed_tensors"):
        return compressed.read(settings, width)
    if method in ("awq", "awq_marlin", "auto_awq"):
        return integer.read_awq(settings)
    if method in ("gptq", "gptq_marlin", "auto_gptq", "gptqmodel"):
        return integer.read_gptq(settings)
    if method in ("auto-round", "auto_round", "intel/auto-round", "inc"):
        return integer.read_auto_round(settings)
    if method in ("fp8", "deepseek_v4_fp8", "finegrained_fp8"):
        return floating.read_fp8(settings, config)
    if method == "fbgemm_fp8":
        return floating.read_fbgemm(settings)
    if method in ("mxfp4", "gpt_oss_mxfp4"):
        return floating.read_mxfp4(settings)
    if method.startswith("modelopt") or text(settings, "quant_algo"):
        return floating.read_modelopt(settings)
    if method == "quark":
        return floating.read_quark(settings)
    if method == "bitsandbytes":
        return _bitsandbytes(settings)
    if method in _ON_LOAD:
        return None
    return _unknown(method, settings)


def _unnamed(settings: Mapping[str, Any]) -> Quantization:
    found = _unknown("unknown", settings)
    problem = "quantization_config has neither quant_method nor quant_algo"
    return found.model_copy(update={"problems": (problem,)})


def _unknown(method: str, settings: Mapping[str, Any]) -> Quantization:
    """Return a quantisation of which only a range is known; a number of bits narrows it for the routed experts."""
    bits = _hinted_bits(method, settings)
    experts = unknown(method, *((bits, bits + 1.5) if bits is not None else (_LOWEST_BITS, _HIGHEST_BITS)))
    others = unknown(method, min(bits or _LOWEST_BITS, 16.0), _HIGHEST_BITS)
    why = f"how {method} stores weights is not known here"
    return Quantization(
        method=method,
        rules=(
            Rule(how="component", patterns=("experts",), format=experts),
            Rule(how="class", patterns=("Linear", "Embedding"), format=others),
        ),
        uncertain=(why,),
    )


def _hinted_bits(method: str, settings: Mapping[str, Any]) -> float | None:
    inner = {**settings, **mapping(settings, "weight"), **mapping(settings, "weights")}
    for key in _HINT_KEYS:
        value = inner.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0.5 <= value <= 16:
            return float(value)
    if inner.get("load_in_4bit") is True:
        return 4.0
    match = re.search(r"(?:int|fp|mxfp|nf|w)_?([2-8])(?!\d)", method)
    return float(match.group(1)) if match else None


def _bitsandbytes(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of bitsandbytes: blocks of 64 with an absmax, or int8 rows with SCB.

    Source: transformers.quantizers.quantizer_bnb_4bit and _8bit; the quantisation state beside a weight is small.
    """
    problems: list[str] = []
    if flag(settings, "load_in_4bit", problems, default=False):
        double = flag(settings, "bnb_4bit_use_double_quant", problems, default=False)
        # absmax a block of 64: float32, or one byte and a float32 for 256 of them; code books and shapes beside it.
        form = unknown("nf4", 4 + (0.12 if double else 0.5), 4 + (0.2 if double else 0.6))
    elif flag(settings, "load_in_8bit", problems, default=False):
        form = WeightFormat(name="int8", packing="values", bits=8, scales="channel", scale_bytes=4)
    else:
        form = unknown("bitsandbytes", 4, 16)
    skipped = entries(settings, "llm_int8_skip_modules", "modules_to_not_convert") or []
    found = sorted_patterns([*skipped, "lm_head"], plain="component", problems=problems, key="llm_int8_skip_modules")
    rules = [Rule(how=how, patterns=patterns, format=None) for how, patterns in found.items()]
    rules.append(Rule(how="class", patterns=("Linear",), format=form))
    return Quantization(method="bitsandbytes", rules=tuple(rules), problems=tuple(problems))
