"""compressed-tensors (llm-compressor): groups of modules, each with its own weight format.

Sources: compressed_tensors.utils.match (match_targets, is_match: exact names before expressions before classes,
`ignore` over all), compressors.*.compress (what each format stores), compressors.format.infer_module_format (where
none is named), quantization.lifecycle.initialize.initialize_qparams (dtypes and shapes of scales),
quantization.quant_args (which settings go together). The tests compress modules with the library and compare bytes.
"""

from collections.abc import Mapping
from typing import Any, Literal

from dsa_doctor.catalog.quantization.formats import Scales, WeightFormat, ZeroPoints, unknown
from dsa_doctor.catalog.quantization.rules import Match, Quantization, Rule, sorted_patterns
from dsa_doctor.catalog.quantization.values import entries, flag, mapping, pair, text, whole

_INDEX = 4
_SHAPE = 16
"""weight_shape: two int64."""
_GLOBAL_SCALE = 4
_DTYPE_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "uint8": 1, "float8_e4m3fn": 1, "int8": 1}
_WHOLE_VALUES = ("int-quantized", "float-quantized", "naive-quantized", "mxfp8-quantized")
_UNCOMPRESSED = ("initialized", "calibration", "frozen", "decompressed")

Scheme = Literal["pack-quantized", "values", "fp4", "dense", "unknown"]


def read(settings: Mapping[str, Any], model_dtype_bytes: int) -> Quantization:
    """Return the quantisation that a compressed-tensors section describes."""
    problems: list[str] = []
    uncertain: list[str] = []
    rules = [
        Rule(how=how, patterns=patterns, format=None)
        for how, patterns in _names(entries(settings, "ignore") or [], problems, "ignore").items()
    ]
    status = text(settings, "quantization_status")
    groups = mapping(settings, "config_groups")
    targets: dict[Match, list[Rule]] = {"exact": [], "regex": [], "class": []}
    for name, group in groups.items():
        if not isinstance(group, dict):
            problems.append(
                f"config_groups.{name} is {str(group)[:40]!r}; accepted: an object with targets and weights"
            )
            continue
        weights = group.get("weights")
        if weights is None:
            continue
        if status in _UNCOMPRESSED:
            form = None
        else:
            kept = dict(weights) if isinstance(weights, dict) else {}
            where = f"config_groups.{name}."
            own = text(group, "format") or text(settings, "format")
            form = _format(kept, group, own, model_dtype_bytes, problems, where)
        named = entries(group, "targets")
        if named is None:
            problems.append(f"config_groups.{name}.targets is {str(group.get('targets'))[:40]!r}; accepted: a list")
            continue
        for how, patterns in _names(named, problems, f"config_groups.{name}.targets").items():
            targets[how].append(Rule(how=how, patterns=patterns, format=form))
    rules += [rule for how in targets for rule in targets[how]]
    if not any(targets.values()):
        uncertain.append("config_groups names no module")
        rules.append(Rule(how="class", patterns=("Linear",), format=unknown("unknown", 1, 16)))
    if settings.get("sparsity_config") and mapping(settings, "sparsity_config").get("format") not in (None, "dense"):
        uncertain.append("sparsity_config: sparse weights are stored by how many values are zero")
    return Quantization(
        method="compressed-tensors", rules=tuple(rules), uncertain=tuple(uncertain), problems=tuple(problems)
    )


def _names(patterns: list[Any], problems: list[str], key: str) -> dict[Match, tuple[str, ...]]:
    """Sort entries into exact names, expressions and classes; a name without a dot may be a class."""
    found = sorted_patterns(patterns, plain="exact", problems=problems, key=key)
    classes = tuple(one for one in found.get("exact", ()) if one in ("Linear", "Embedding"))
    return {**found, "class": classes} if classes else found


def _format(
    weights: dict[str, Any],
    group: dict[str, Any],
    form: str | None,
    model_dtype_bytes: int,
    problems: list[str],
    where: str,
) -> WeightFormat | None:
    """Return the weight format of one group, None where it stores the model's dtype."""
    mine: list[str] = []
    bits = whole(weights, ("num_bits",), mine, least=1, most=32) or (8 if not mine else 0)
    kind = text(weights, "type") or "int"
    symmetric = flag(weights, "symmetric", mine, default=True)
    size = whole(weights, ("group_size",), mine, least=-1, most=2**20)
    strategy = text(weights, "strategy") or _strategy(size)
    block = pair(weights.get("block_structure"))
    inputs, outputs = mapping(group, "input_activations"), mapping(group, "output_activations")
    if form in (None, "mixed-precision"):
        form = _inferred_format(bits, kind, size, inputs=bool(inputs), scale=text(weights, "scale_dtype"))
    scheme = _scheme(form)
    if scheme == "dense":
        return None
    scales = _scales(strategy, size, block)
    if scales is None:
        mine.append(f"strategy is {strategy!r} with group_size {size} and block_structure {block}; no such weights")
    if kind not in ("int", "float"):
        mine.append(f"type is {kind!r}; accepted: int or float")
    if scheme == "pack-quantized" and bits > 8:
        mine.append(f"num_bits is {bits}; pack-quantized holds 1 to 8")
    if mine or scheme == "unknown" or scales is None:
        problems += [f"{where}weights.{one}" for one in mine]
        return unknown(form, bits or 1, min(bits + 4, 16) if bits else 16)
    scale_dtype = (text(weights, "scale_dtype") or "").removeprefix("torch.")
    order = text(weights, "actorder") in ("group", "dynamic") or weights.get("actorder") is True
    asymmetric = not symmetric and strategy in ("group", "channel")
    zero_points: ZeroPoints = "none"
    if scheme == "pack-quantized":
        zero_points = "int32 rows" if asymmetric else "values" if not symmetric else "none"
    elif not symmetric:
        zero_points = "values"
    fixed = _activations(inputs, model_dtype_bytes) + _activations(outputs, model_dtype_bytes)
    fixed += _SHAPE if scheme == "pack-quantized" else 0
    fixed += _GLOBAL_SCALE if strategy == "tensor_group" else 0
    converted = scheme == "fp4" or form.startswith("mx")
    return WeightFormat(
        name=_short_name(form, bits, kind, size),
        packing="int32 rows" if scheme == "pack-quantized" else "nibbles" if scheme == "fp4" else "values",
        bits=bits,
        scales=scales,
        group_size=max(size or 0, 0) if scales == "group" else 0,
        block=block or (1, 1),
        scale_bytes=_DTYPE_BYTES.get(scale_dtype, 1) if converted else model_dtype_bytes,
        zero_points=zero_points,
        column_bytes=_INDEX if order and scales == "group" else 0,
        module_bytes=fixed,
        activations=_activation_name(inputs),
        ordered=order,
    )


def _strategy(group_size: int | None) -> str:
    """Return the strategy that QuantizationArgs infers where none is named."""
    if group_size is None:
        return "tensor"
    return "group" if group_size > 0 else "channel"


def _inferred_format(bits: int, kind: str, size: int | None, *, inputs: bool, scale: str | None) -> str:
    """Return the format of a group that names none, in the order of compressed_tensors' infer_module_format."""
    if kind == "float" and bits == 4 and size in (16, 32):
        return "mxfp4-pack-quantized" if size == 32 else "nvfp4-pack-quantized"
    if kind == "float" and bits == 8 and size == 32 and scale == "torch.uint8":
        return "mxfp8-quantized"
    if kind == "int" and not inputs and bits <= 8:
        return "pack-quantized"
    return "naive-quantized"


def _scheme(form: str) -> Scheme:
    """Return how a format packs its values."""
    if form in ("dense", "pack-quantized"):
        return "dense" if form == "dense" else "pack-quantized"
    if form in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
        return "fp4"
    return "values" if form in _WHOLE_VALUES else "unknown"


def _scales(strategy: str, group_size: int | None, block: tuple[int, int] | None) -> Scales | None:
    if strategy in ("group", "tensor_group"):
        return "group" if group_size is not None and group_size > 0 else None
    if strategy == "block":
        return "block" if block is not None else None
    return {"tensor": "tensor", "channel": "channel"}.get(strategy)  # type: ignore[return-value]


def _activations(arguments: dict[str, Any], model_dtype_bytes: int) -> int:
    """Return the bytes that the scale of quantised activations takes in a module."""
    if not arguments:
        return 0
    if text(arguments, "strategy") == "tensor_group":
        return _GLOBAL_SCALE
    if arguments.get("dynamic", False) is not False:
        return 0
    return model_dtype_bytes + (0 if arguments.get("symmetric", True) else 1)


def _activation_name(arguments: dict[str, Any]) -> str:
    if not arguments:
        return ""
    bits = arguments.get("num_bits", 8)
    return f"{text(arguments, 'type') or 'int'}{bits if isinstance(bits, int) else ''}"


def _short_name(form: str, bits: int, kind: str, size: int | None) -> str:
    if bits == 4 and kind == "float":
        return "mxfp4" if size == 32 else "nvfp4"
    if bits == 8 and kind == "float":
        return "mxfp8" if form == "mxfp8-quantized" else "fp8"
    return f"{kind}{bits}"
