"""Bytes of a weight, in the checkpoint and on a GPU, for each quantisation that the planner knows."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.weights import Weight

Label = Literal["exact", "estimated"]

_BFLOAT16 = 2
_FLOAT32 = 4
_SCALE = 4
_NVFP4_GROUP = 16
_INT4_GROUP = 128
_INT4_METHODS = ("awq", "gptq", "auto-round", "auto_round", "compressed-tensors")


@dataclass(frozen=True)
class Storage:
    """How a checkpoint stores its linear weights.

    Attributes:
        name: for people.
        label: whether the bytes are exact, or estimated because the configuration does not say which are quantised.
        experts_only: whether only routed experts are quantised.
    """

    name: str
    label: Label
    experts_only: bool = False


def storage_of(model: ModelGeometry) -> Storage:
    """Return how the model's checkpoint stores its linear weights, as far as its config.json says."""
    method, algorithm = model.quantization, model.quantization_algorithm or ""
    if method is None:
        return Storage("bf16", "exact")
    if method == "fp8":
        return Storage("fp8", "exact")
    if "nvfp4" in (method, algorithm) or "fp4" in algorithm:
        return Storage("nvfp4", "estimated", experts_only=not model.unquantized_modules)
    if "fp8" in algorithm:
        return Storage("fp8", "estimated")
    if method.startswith(_INT4_METHODS):
        return Storage("int4", "estimated")
    return Storage("bf16", "estimated")


def stored_bytes(weight: Weight, model: ModelGeometry, *, layer: int | None = None) -> int:
    """Return the bytes of all copies of a weight in the checkpoint."""
    return weight.copies * _one_copy(weight, weight.shape, model, quantised=_is_quantised(weight, model, layer))


def resident_bytes(weight: Weight, shape: tuple[int, ...], model: ModelGeometry, *, layer: int | None = None) -> int:
    """Return the bytes of one copy's share of the given shape on a GPU; vLLM widens a few weights to bfloat16."""
    quantised = not weight.widened and _is_quantised(weight, model, layer)
    return _one_copy(weight, shape, model, quantised=quantised)


def _is_quantised(weight: Weight, model: ModelGeometry, layer: int | None) -> bool:
    storage = storage_of(model)
    if weight.kind != "linear" or storage.name == "bf16":
        return False
    if storage.experts_only and weight.part != "routed experts":
        return False
    prefix = "model." if layer is None else f"model.layers.{layer}."
    name = (prefix + weight.name).removesuffix(".weight")
    return not any(_names(module, name) for module in model.unquantized_modules)


def _names(module: str, name: str) -> bool:
    """Whether an entry of modules_to_not_convert names `name` or a module that holds it."""
    bare = module.removesuffix(".weight").strip("*").strip(".")
    return bool(bare) and f".{bare}." in f".{name}."


def _one_copy(weight: Weight, shape: tuple[int, ...], model: ModelGeometry, *, quantised: bool) -> int:
    count = prod(shape)
    if not quantised:
        return count * (_FLOAT32 if weight.kind == "float32" else _BFLOAT16)
    storage = storage_of(model).name
    if storage == "nvfp4":
        return count // 2 + -(-count // _NVFP4_GROUP) + 2 * _SCALE
    if storage == "int4":
        return count // 2 + -(-count // _INT4_GROUP) * _BFLOAT16
    if model.weight_block_size is None:
        return count + _SCALE
    rows, columns = model.weight_block_size
    return count + _SCALE * -(-shape[0] // rows) * -(-shape[1] // columns)
