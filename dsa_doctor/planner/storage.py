"""Bytes of a weight, in the checkpoint and on a GPU, from what the configuration says of each module's format."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import Literal

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.quantization import Size, WeightFormat
from dsa_doctor.catalog.quantization.rules import ModuleClass
from dsa_doctor.planner.weights import Weight, layer_weights

Label = Literal["exact", "estimated"]

_BFLOAT16 = 2
_BYTES: dict[str, Fraction | int] = {"float32": 4, "int64": 8, "table": Fraction(33, 32)}
"""Bytes of one value where they are not those of bfloat16; a table has an e8m0 scale per 32 e4m3 values."""
_PLAIN_LINEAR = ("weights_proj.weight", "lm_head.weight", "eh_proj.weight")
"""Linear modules of transformers' models that a native FP8 checkpoint leaves in bfloat16, and other methods may not."""
_EXPERTS = "experts."
_WORTH_NAMING = 0.1
"""Share of the quantised parameters from which a second format is named."""


@dataclass(frozen=True)
class Storage:
    """How a checkpoint stores its linear weights.

    Attributes:
        name: for people: the format of most weights, and a second one that a tenth of them has.
        label: exact only where each weight's format follows from the configuration.
        reasons: why it is estimated; empty where it is exact.
    """

    name: str
    label: Label
    reasons: tuple[str, ...] = ()


@lru_cache(maxsize=256)
def storage_of(model: ModelGeometry) -> Storage:
    """Return how the model's checkpoint stores its linear weights, as far as its configuration says."""
    if model.stored is None:
        return Storage("bf16", "exact")
    counts: Counter[str] = Counter()
    vague: list[str] = []
    for layer in range(model.num_hidden_layers):
        for weight in layer_weights(model, layer):
            if _class_of(weight) != "Linear":
                continue
            for form, copies in _formats(weight, model, layer).items():
                if form is not None:
                    counts[form.name] += copies * prod(weight.shape)
                if form is not None and not form.is_known:
                    vague.append(form.name)
    reasons = [*model.stored.problems, *model.stored.uncertain]
    if vague and not reasons:
        reasons.append(f"how many bytes {', '.join(dict.fromkeys(vague))} weights take is not known")
    whole = sum(counts.values())
    names = [name for name, count in counts.most_common(2) if count >= _WORTH_NAMING * whole]
    return Storage(" and ".join(names) or "bf16", "estimated" if reasons else "exact", tuple(reasons))


def lowest(model: ModelGeometry) -> ModelGeometry:
    """Return the model with every weight whose format is not known at the low end of its range; itself without one."""
    if model.stored is None or model.stored.is_known:
        return model
    return model.model_copy(update={"stored": model.stored.lowest()})


def stored_size(weight: Weight, model: ModelGeometry, *, layer: int | None = None) -> Size:
    """Return the bytes of all copies of a weight in the checkpoint; nothing at the low end where it may be left out."""
    size = Size(0, 0)
    for form, copies in _formats(weight, model, layer).items():
        size = size.plus(_one_copy(weight, weight.shape, form).times(copies))
    return Size(0, size.high) if may_lack(model, layer) else size


def resident_bytes(weight: Weight, shape: tuple[int, ...], model: ModelGeometry, *, layer: int | None = None) -> int:
    """Return the most bytes of one copy's share of the given shape on a GPU; vLLM widens a few weights to bfloat16."""
    if weight.widened:
        return _one_copy(weight, shape, None).high
    return max(_one_copy(weight, shape, form).high for form in _formats(weight, model, layer))


def may_lack(model: ModelGeometry, layer: int | None) -> bool:
    """Whether the checkpoint may have been written without this layer.

    transformers builds no MTP layers, so quantisers that load a model with it drop them; a configuration that names
    one has it.
    """
    if layer is None or layer < model.num_hidden_layers or model.stored is None or model.stored.native:
        return False
    return not model.stored.names_layer(layer)


def _class_of(weight: Weight) -> ModuleClass:
    """Return the class of the module in transformers' model."""
    if weight.kind == "linear" or weight.name.endswith(_PLAIN_LINEAR):
        return "Linear"
    return "Embedding" if weight.name.startswith("embed_tokens") else "other"


def _formats(weight: Weight, model: ModelGeometry, layer: int | None) -> dict[WeightFormat | None, int]:
    """Return how many of a weight's copies are stored in each format; None is the model's own dtype."""
    stored, module_class = model.stored, _class_of(weight)
    if stored is None or module_class == "other" or len(weight.shape) < 2:
        return {None: weight.copies}
    if stored.native and weight.kind != "linear":
        return {None: weight.copies}
    module = _module(weight, layer)
    if weight.sharding != "experts" or _EXPERTS not in module:
        return {stored.format_of(module, module_class): weight.copies}
    before, after = module.rsplit(_EXPERTS, 1)
    numbers = range(weight.copies) if stored.names_expert_numbers() else range(1)
    found = Counter(stored.format_of(f"{before}{_EXPERTS}{number}.{after}", module_class) for number in numbers)
    return dict(found) if len(numbers) == weight.copies else {next(iter(found)): weight.copies}


def _module(weight: Weight, layer: int | None) -> str:
    """Return the name of a weight's module in transformers' model; the output head stands outside `model`."""
    name = weight.name.removesuffix(".weight")
    if layer is not None:
        return f"model.layers.{layer}.{name}"
    return name if name.startswith("lm_head") else f"model.{name}"


def _one_copy(weight: Weight, shape: tuple[int, ...], form: WeightFormat | None) -> Size:
    if form is not None:
        return form.size(shape)
    size = int(prod(shape) * _BYTES.get(weight.kind, _BFLOAT16))
    return Size(size, size)
