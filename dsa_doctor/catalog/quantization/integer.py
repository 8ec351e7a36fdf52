"""AWQ, GPTQ and AutoRound: integers packed into int32 beside float16 scales and zero points.

Sources: vLLM's quantization.auto_awq (AutoAWQConfig, is_layer_skipped with match_mode="substring"), auto_gptq and
utils.gptq_utils (get_dynamic_override, override_config, is_layer_gptq_quantized), inc.config_parser (INCConfigParser).
"""

import re
from collections.abc import Mapping
from typing import Any

from dsa_doctor.catalog.quantization.formats import WeightFormat, fp8_blocks, unknown
from dsa_doctor.catalog.quantization.rules import (
    Match,
    Quantization,
    Rule,
    regex_problem,
    sorted_patterns,
)
from dsa_doctor.catalog.quantization.values import entries, flag, mapping, pair, text, whole

_FLOAT16 = 2
_INDEX = 4
_OUTSIDE = Rule(how="component", patterns=("lm_head", "eh_proj"), format=None)
"""Neither lies in a decoder layer of transformers' model, where these quantisers look."""
_SPECIAL = set("*+?^$()[]{}|\\")
_UNKNOWN = unknown("int", 2, 16)


def read_awq(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of an AWQ section: qweight, qzeros and scales (AutoAWQ's GEMM layout)."""
    problems: list[str] = []
    uncertain: list[str] = []
    bits = whole(settings, ("w_bit", "bits"), problems, least=1, most=8)
    size = whole(settings, ("q_group_size", "group_size"), problems, least=-1, most=2**20)
    form = _UNKNOWN if bits is None or size is None else awq_format(bits, size)
    version = text(settings, "version")
    if version not in (None, "gemm"):
        uncertain.append(f"version is {version!r}, whose padding is not known here")
    skipped = entries(settings, "modules_to_not_convert") or []
    rules = [
        Rule(how=how, patterns=patterns, format=None)
        for how, patterns in sorted_patterns(
            skipped, plain="substring", problems=problems, key="modules_to_not_convert"
        ).items()
    ]
    head = flag(settings, "lm_head", problems, default=False)
    rules += [*([] if head else [_OUTSIDE]), _linear(form)]
    return Quantization(method="awq", rules=tuple(rules), uncertain=tuple(uncertain), problems=tuple(problems))


def read_gptq(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of a GPTQ section: qweight, qzeros, scales and g_idx, with overrides under `dynamic`."""
    problems: list[str] = []
    bits = whole(settings, ("bits",), problems, least=1, most=8)
    size = whole(settings, ("group_size",), problems, least=-1, most=2**20)
    ordered = flag(settings, "desc_act", problems, default=False)
    base = _UNKNOWN if bits is None or size is None else gptq_format(bits, size, ordered=ordered)
    rules = [_dynamic(*one, bits, size, ordered, problems) for one in mapping(settings, "dynamic").items()]
    kept = [one for one in rules if one is not None]
    if not flag(settings, "lm_head", problems, default=False):
        kept.append(_OUTSIDE)
    uncertain = []
    wanted = _flat(entries(settings, "modules_in_block_to_quantize") or [])
    if wanted:
        named = sorted_patterns(wanted, plain="substring", problems=problems, key="modules_in_block_to_quantize")
        kept += [Rule(how=how, patterns=patterns, format=base) for how, patterns in named.items()]
    else:
        if not _names_indexer(kept):
            uncertain.append("GPTQ does not say which modules of a layer it quantised: the indexer may be in bf16")
            low = base.bits
            kept.append(
                Rule(how="component", patterns=("indexer",), format=unknown(base.name, low, 16)),
            )
        kept.append(_linear(base))
    return Quantization(method="gptq", rules=tuple(kept), uncertain=tuple(uncertain), problems=tuple(problems))


def read_auto_round(settings: Mapping[str, Any]) -> Quantization:
    """Return the quantisation of an AutoRound section; its packing is GPTQ's, AWQ's, or FP8 in blocks."""
    problems: list[str] = []
    bits = whole(settings, ("bits",), problems, least=1, most=16)
    packing = text(settings, "packing_format") or "auto_round:auto_gptq"
    base = _auto_round_format(settings, settings, packing, bits, problems)
    rules = []
    for name, one in mapping(settings, "extra_config").items():
        if not isinstance(one, dict):
            problems.append(f"extra_config.{name[:60]} is {str(one)[:40]!r}; accepted: an object")
            continue
        own = whole(one, ("bits",), problems, least=1, most=32)
        form = (
            None if (own or bits or 0) >= 16 else _auto_round_format({**settings, **one}, one, packing, own, problems)
        )
        how: Match = "search" if _SPECIAL & set(name) else "component"
        wrong = regex_problem(name) if how == "search" else None
        if wrong:
            problems.append(f"extra_config holds {name[:60]!r}: {wrong}")
        else:
            rules.append(Rule(how=how, patterns=(name,), format=form))
    blocks = settings.get("block_name_to_quantize")
    wanted = blocks.split(",") if isinstance(blocks, str) else entries(settings, "block_name_to_quantize")
    rules.append(_OUTSIDE)
    if wanted:
        named = sorted_patterns(wanted, plain="component", problems=problems, key="block_name_to_quantize")
        rules += [Rule(how=how, patterns=patterns, format=base) for how, patterns in named.items()]
    else:
        rules.append(_linear(base))
    return Quantization(method="auto-round", rules=tuple(rules), problems=tuple(problems))


def awq_format(bits: int, group_size: int) -> WeightFormat:
    """Return AWQ's layout: qweight [in, out·bits/32], qzeros [groups, out·bits/32], scales [groups, out] in float16."""
    grouped = group_size > 0
    return WeightFormat(
        name=f"int{bits}",
        packing="int32 columns",
        bits=bits,
        scales="group" if grouped else "channel",
        group_size=max(group_size, 0),
        scale_bytes=_FLOAT16,
        zero_points="int32 columns",
    )


def gptq_format(
    bits: int, group_size: int, *, index: int = _INDEX, optional: int = 0, ordered: bool = False
) -> WeightFormat:
    """Return GPTQ's layout: qweight [in·bits/32, out], scales, g_idx, and qzeros [groups, out·bits/32] in any case."""
    grouped = group_size > 0
    return WeightFormat(
        name=f"int{bits}",
        packing="int32 stream",
        bits=bits,
        scales="group" if grouped else "channel",
        group_size=max(group_size, 0),
        scale_bytes=_FLOAT16,
        zero_points="int32 columns",
        column_bytes=index,
        optional_bytes=optional,
        ordered=ordered and grouped,
    )


def _auto_round_format(
    settings: Mapping[str, Any], own: Mapping[str, Any], packing: str, bits: int | None, problems: list[str]
) -> WeightFormat:
    wide = bits if bits is not None else whole(settings, ("bits",), [], least=1, most=16)
    block = pair(settings.get("group_size"))
    kind = text(settings, "data_type") or "int"
    if kind in ("fp", "fp8") and block is not None:
        return fp8_blocks(*block)
    size = whole(settings, ("group_size",), problems if own.get("group_size") is not None else [], least=-1, most=2**20)
    if kind != "int" or wide is None or size is None or wide > 8:
        return unknown(f"{kind}{wide or ''}", wide or 2, min((wide or 12) + 4, 16))
    if "awq" in packing:
        return awq_format(wide, size)
    # Writers of this packing differ in whether they store g_idx.
    return gptq_format(wide, size, index=0, optional=_INDEX)


def _dynamic(
    pattern: str, overrides: object, bits: int | None, size: int | None, ordered: bool, problems: list[str]
) -> Rule | None:
    """Return the rule of one entry of `dynamic`: "-:" leaves modules alone, anything else overrides the base."""
    expression = pattern.removeprefix("-:") if pattern.startswith("-:") else pattern.removeprefix("+:")
    wrong = regex_problem(expression)
    if wrong:
        problems.append(f"dynamic holds {pattern[:60]!r}: {wrong}")
        return None
    if pattern.startswith("-:"):
        return Rule(how="regex", patterns=(expression,), format=None)
    if not isinstance(overrides, dict):
        problems.append(f"dynamic.{pattern[:60]} is {str(overrides)[:40]!r}; accepted: an object")
        return None
    own_bits = whole(overrides, ("bits",), problems, least=1, most=8) or bits
    own_size = whole(overrides, ("group_size",), problems, least=-1, most=2**20) or size
    order = flag(overrides, "desc_act", problems, default=ordered)
    form = _UNKNOWN if own_bits is None or own_size is None else gptq_format(own_bits, own_size, ordered=order)
    return Rule(how="regex", patterns=(expression,), format=form)


def _names_indexer(rules: list[Rule]) -> bool:
    return any(re.search("indexer", one) for rule in rules for one in rule.patterns)


def _flat(values: list[Any]) -> list[Any]:
    """Return a list with the lists inside it laid out, one level deep."""
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _linear(form: WeightFormat) -> Rule:
    return Rule(how="class", patterns=("Linear",), format=form)
