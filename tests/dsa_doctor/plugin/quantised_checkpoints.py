"""Tensors of a quantised checkpoint as the library that a config.json names writes them; on the meta device: no values.

Which modules are quantised is decided as that library does it: compressed-tensors by its own code, AWQ by parts of a
name, GPTQ by the expressions of `dynamic`, ModelOpt by globs. None of it is dsa-doctor's reading of the same settings.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from math import prod
from pathlib import Path
from typing import Any

import torch

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.planner.weights import embedding_weight, head_weights, layer_weights, mtp_weights

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, torch.Tensor]]

_DTYPES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
}
_NOT_LINEAR = ("mlp.gate.weight", "norm.weight", "embed_tokens.weight")
"""Weights of two dimensions that no linear module holds in transformers' model, and norms."""
_OUTSIDE = ("lm_head", "eh_proj")
"""Linear modules outside transformers' decoder layers, where AWQ and GPTQ look."""


def checkpoint(config: dict[str, Any]) -> Tensors:
    """Yield every tensor of the checkpoint, the draft layer's included."""
    section = config.get("quantization_config")
    linear: dict[str, Shape] = {}
    for name, shape in _weights(config):
        if section is None or len(shape) != 2 or name.endswith(_NOT_LINEAR):
            kind = torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16
            yield name, _meta(shape, kind)
        else:
            linear[name.removesuffix(".weight")] = shape
    if section is not None:
        yield from _WRITERS[section["quant_method"]](section, linear)


def write_headers(file: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write a safetensors file whose data is a hole: vLLM's GPTQ classes read which tensors are packed."""
    header, end = {}, 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)


def _weights(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    model = geometry_from_config(config, name="tiny", source="test")
    yield f"model.{embedding_weight(model).name}", embedding_weight(model).shape
    for one in head_weights(model):
        yield one.name if one.name.startswith("lm_head") else f"model.{one.name}", one.shape
    for layer in range(model.num_hidden_layers + model.draft_layers):
        prefix = f"model.layers.{layer}."
        for one in layer_weights(model, layer):
            if one.copies == 1:
                yield prefix + one.name, one.shape
            for number in range(one.copies) if one.copies > 1 else ():
                yield prefix + one.name.replace("experts.", f"experts.{number}."), one.shape
        if layer >= model.num_hidden_layers:
            yield from ((prefix + one.name, one.shape) for one in mtp_weights(model, layer))


def _compressed_tensors(section: dict[str, Any], linear: dict[str, Shape]) -> Tensors:
    from compressed_tensors.compressors import compress_module
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    root = torch.nn.Module()
    for name, (rows, columns) in linear.items():
        *parents, last = name.split(".")
        at = root
        for part in parents:
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at.get_submodule(part)
        at.add_module(last, torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16, device="meta"))
    apply_quantization_config(root, QuantizationConfig.model_validate(section))
    torch.compiler.set_stance("force_eager")  # packing of four-bit floats is compiled otherwise, for 10 s
    for module in root.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            compress_module(module)
    torch.compiler.set_stance("default")
    for name, tensor in root.state_dict().items():
        yield name, tensor.to("meta")


def _awq(section: dict[str, Any], linear: dict[str, Shape]) -> Tensors:
    for name, (rows, columns) in linear.items():
        if name.endswith(_OUTSIDE) or any(one in name for one in section["modules_to_not_convert"]):
            yield f"{name}.weight", _meta((rows, columns))
            continue
        groups = columns // section["group_size"]
        yield f"{name}.qweight", _meta((columns, rows // 8), torch.int32)
        yield f"{name}.qzeros", _meta((groups, rows // 8), torch.int32)
        yield f"{name}.scales", _meta((groups, rows), torch.float16)


def _gptq(section: dict[str, Any], linear: dict[str, Shape]) -> Tensors:
    for name, (rows, columns) in linear.items():
        found = _gptq_settings(section, name)
        if found is None or name.endswith(_OUTSIDE):
            yield f"{name}.weight", _meta((rows, columns))
            continue
        bits, groups = found["bits"], columns // found["group_size"]
        yield f"{name}.qweight", _meta((columns * bits // 32, rows), torch.int32)
        yield f"{name}.qzeros", _meta((groups, rows * bits // 32), torch.int32)
        yield f"{name}.scales", _meta((groups, rows), torch.float16)
        yield f"{name}.g_idx", _meta((columns,), torch.int32)


def _gptq_settings(section: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the settings of a module; `-:` before an expression leaves it alone, `+:` or nothing changes them."""
    for pattern, changes in section.get("dynamic", {}).items():
        if re.match(pattern.removeprefix("-:").removeprefix("+:"), name):
            return None if pattern.startswith("-:") else {**section, **changes}
    return section


def _modelopt(section: dict[str, Any], linear: dict[str, Shape]) -> Tensors:
    for name, (rows, columns) in linear.items():
        if any(fnmatch(name, one) for one in section.get("ignore", ())):
            yield f"{name}.weight", _meta((rows, columns))
            continue
        yield f"{name}.weight", _meta((rows, columns // 2), torch.uint8)
        yield f"{name}.weight_scale", _meta((rows, columns // 16), torch.float8_e4m3fn)
        yield f"{name}.weight_scale_2", _meta((), torch.float32)
        yield f"{name}.input_scale", _meta((), torch.float32)


def _fp8(section: dict[str, Any], linear: dict[str, Shape]) -> Tensors:
    """DeepSeek's own FP8: blocks of 128 by 128; head, index weights and the draft's projection stay in bf16."""
    side, _ = section["weight_block_size"]
    for name, shape in linear.items():
        if name.endswith(("lm_head", "weights_proj", "eh_proj")):
            yield f"{name}.weight", _meta(shape)
            continue
        yield f"{name}.weight", _meta(shape, torch.float8_e4m3fn)
        yield f"{name}.weight_scale_inv", _meta(tuple(-(-one // side) for one in shape), torch.float32)


_WRITERS = {
    "compressed-tensors": _compressed_tensors,
    "awq": _awq,
    "gptq": _gptq,
    "modelopt": _modelopt,
    "fp8": _fp8,
}


def _meta(shape: Shape, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    assert not shape or prod(shape)
    return torch.empty(shape, dtype=dtype, device="meta")
