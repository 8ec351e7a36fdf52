"""Writes a small random checkpoint of DeepSeek-V4 as the published ones are stored, and the same values in fp32.

Names and shapes are those that the planner counts; e4m3 in blocks of 128 x 128 and e2m1 in groups of 32 have e8m0
scales. Whoever loads it as vLLM does and whoever computes with the plain values must come to the same logits.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.planner.weights import embedding_weight, head_weights, layer_weights, mtp_weights

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
"""What the lower three bits of a code stand for; the fourth is the sign."""

Tensors = dict[str, torch.Tensor]


def write(folder: Path, config: dict[str, Any], seed: int = 0) -> None:
    """Write folder/stored, with config.json and its quantisation, and folder/plain, without.

    In the plain one the first draft's layer follows the model's last.
    """
    generator = torch.Generator().manual_seed(seed)
    stored: Tensors = {}
    plain: Tensors = {}
    for name, shape, kind in weights(config):
        values = draw(name, shape, generator, config)
        if ".experts." in name:
            stored[name], scale, plain[name] = to_e2m1(values)
            stored[f"{name.removesuffix('.weight')}.scale"] = scale
        elif kind == "linear":
            stored[name], scale, plain[name] = to_e4m3(values)
            stored[f"{name.removesuffix('.weight')}.scale"] = scale
        else:
            stored[name] = values if kind in ("float32", "int64") else values.bfloat16()
            plain[name] = stored[name] if kind == "int64" else stored[name].float()
    count = config["num_hidden_layers"]
    plain = {re.sub(r"^mtp\.0\.(?=attn|ffn|hc_attn|hc_ffn)", f"layers.{count}.", name): plain[name] for name in plain}
    without = {key: value for key, value in config.items() if key not in ("quantization_config", "expert_dtype")}
    without |= {"num_hidden_layers": count + 1, "compress_ratios": [*config["compress_ratios"][:count], 0]}
    for kind, content, said in (("stored", stored, config), ("plain", plain, without)):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "config.json").write_text(json.dumps(said))
        save_file(content, folder / kind / "model.safetensors", metadata={"format": "pt"})


def weights(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield name, shape and kind of every weight, each expert for itself."""
    model = geometry_from_config(config, name="tiny", source="test")
    for one in (embedding_weight(model), *head_weights(model)):
        yield one.name, one.shape, one.kind
    for layer in range(model.num_hidden_layers + model.draft_layers):
        draft = layer - model.num_hidden_layers
        prefix = f"layers.{layer}." if draft < 0 else f"mtp.{draft}."
        for one in (*layer_weights(model, layer), *(mtp_weights(model, layer) if draft >= 0 else ())):
            for number in range(one.copies):
                name = one.name.replace("experts.", f"experts.{number}.") if one.copies > 1 else one.name
                yield prefix + name, one.shape, one.kind


def draw(name: str, shape: tuple[int, ...], generator: torch.Generator, config: dict[str, Any]) -> torch.Tensor:
    """Draw a weight so that every part of the model has a say in the logits."""
    if name.endswith("tid2eid"):
        picks = torch.rand((shape[0], config["n_routed_experts"]), generator=generator)
        return picks.topk(shape[1]).indices
    drawn = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1 + 0.3 * drawn
    if name.endswith("scale"):
        return 1 + 0.3 * drawn.abs()
    if name.endswith(("attn_sink", "ape", "base")):
        return drawn
    if name.endswith("gate.bias"):
        return 0.2 * drawn
    if name.startswith("embed"):
        return drawn
    return drawn * (2 if name.endswith("gate.weight") else 1) / shape[-1] ** 0.5


def to_e4m3(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, e8m0 scales of blocks of 128 x 128, and what they stand for in fp32."""
    rows, columns = values.shape
    assert rows % 128 == columns % 128 == 0
    blocks = values.view(rows // 128, 128, columns // 128, 128)
    scale = torch.exp2(torch.ceil(torch.log2(blocks.abs().amax((1, 3), keepdim=True) / 448)))
    codes = (blocks / scale).to(torch.float8_e4m3fn)
    worth = (codes.float() * scale).view(rows, columns)
    return codes.view(rows, columns), scale.view(rows // 128, -1).to(torch.float8_e8m0fnu), worth


def to_e2m1(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes of two values a byte, the lower half first; e8m0 scales of 32 in a row; and what they stand for."""
    rows, columns = values.shape
    groups = values.view(rows, columns // 32, 32)
    scale = torch.exp2(torch.floor(torch.log2(groups.abs().amax(-1, keepdim=True))) - 2)
    nearest = ((groups / scale).abs().unsqueeze(-1) - E2M1).abs().argmin(-1)
    worth = (E2M1[nearest] * groups.sign() * scale).view(rows, columns)
    codes = (nearest + 8 * (groups < 0)).view(rows, columns).to(torch.uint8)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    return packed.view(torch.int8), scale.view(rows, -1).to(torch.float8_e8m0fnu), worth


def from_e2m1(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return [.., columns] fp32 of codes [.., columns / 2] and e8m0 exponents [.., columns / 32], both as bytes."""
    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(-2).long()
    values = E2M1[codes & 7] * torch.where(codes > 7, -1.0, 1.0)
    return values * torch.exp2(scale.float() - 127).repeat_interleave(32, -1)
