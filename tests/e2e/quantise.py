"""Makes quantised copies of the tiny checkpoint, each beside what its weights are worth. Run under the CPU environment.

    python quantise.py FOLDER TARGET

For every format, TARGET/<format>/quantised is a checkpoint as the library of that format writes it, and
TARGET/<format>/plain the same model with the dequantised weights in fp32, for the oracle. What the CPU build has no
kernels for stays plain in both: routed experts (its int4 and int8 ones need AMX), and kv_b_proj in int8, whose weight
its kernel packs away from MLA. Plain everywhere are the router, wk and weights_proj.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import compress_module, decompress_module
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

GROUP = 32
QUANTISED = (
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "indexer.wq_b",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    "shared_experts.gate_proj", "shared_experts.up_proj", "shared_experts.down_proj",
)  # fmt: skip
LEFT_ALONE = ("lm_head", "mlp.experts", "mlp.gate.", "indexer.wk", "indexer.weights_proj")
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Where AWQ puts eight neighbouring columns in a word, lowest bits first."""

Tensors = dict[str, torch.Tensor]
Quantised = tuple[Tensors, torch.Tensor]
"""The tensors of a module, by their local names, and its weight as they stand for it."""
Format = tuple[dict[str, Any], Callable[[torch.Tensor], Quantised], tuple[str, ...]]
"""quantization_config, what quantises one weight, and modules that stay plain beside those of every format."""


def main(folder: Path, target: Path) -> None:
    """Write both checkpoints of every format."""
    weights = load_file(folder / "model.safetensors")
    for name, (section, quantise, kept) in FORMATS.items():
        stored: Tensors = {}
        plain: Tensors = {}
        for key, value in weights.items():
            module = key.removesuffix(".weight")
            if not module.endswith(QUANTISED) or module.endswith(kept):
                stored[key] = plain[key] = value
                continue
            tensors, plain[key] = quantise(value)
            stored |= {f"{module}.{local}": tensor.contiguous() for local, tensor in tensors.items()}
        rounds = [one for one in QUANTISED if one not in kept] if "int8" in name else []
        extras = {"quantised": {"quantization_config": section}, "plain": {"int8_inputs": rounds}}
        for kind, content in (("quantised", stored), ("plain", plain)):
            made = target / name / kind
            shutil.copytree(folder, made, ignore=shutil.ignore_patterns("*.safetensors"))
            save_file(content, made / "model.safetensors", metadata={"format": "pt"})
            config = json.loads((made / "config.json").read_text())
            (made / "config.json").write_text(json.dumps({**config, **extras[kind]}))


def compressed_tensors(weights: dict[str, Any], inputs: dict[str, Any] | None, form: str, *kept: str) -> Format:
    """Return one scheme of compressed-tensors, quantised by its own library, with the modules that it leaves alone."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
    ignore = ["lm_head", *(f"re:.*{one.rstrip('.')}($|\\.).*" for one in (*LEFT_ALONE[1:], *kept))]
    section = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignore,
    }
    settings = QuantizationConfig.model_validate({**section, "ignore": []})

    def quantise(weight: torch.Tensor) -> Quantised:
        root = torch.nn.Sequential(torch.nn.Linear(*weight.shape[::-1], bias=False, dtype=torch.float32))
        apply_quantization_config(root, settings)
        module = root[0]
        module.weight.data = weight.clone()
        arguments = module.quantization_scheme.weights
        grouped = weight.unflatten(1, (-1, arguments.group_size or weight.shape[1]))
        scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), arguments)
        module.weight_scale.data = scale.half().float()  # as exact in the 16 bits that vLLM keeps it in
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data = zero
        compress_module(module)
        tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        decompress_module(module)
        return tensors, module.weight.detach().float()

    return section, quantise, kept


def _grouped(weight: torch.Tensor, *, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes [K, N], zero points [K / GROUP, N] and scales of four bits, along the inputs of a weight [N, K]."""
    groups = weight.t().unflatten(0, (-1, GROUP))  # [K / GROUP, GROUP, N]
    low, high = groups.amin(1), groups.amax(1)
    if symmetric:
        scale = (2 * torch.maximum(-low, high) / 15).half().float()
        zero = torch.full_like(scale, 8.0)
    else:
        scale = ((high.clamp_min(0) - low.clamp_max(0)) / 15).half().float()
        zero = (-low.clamp_max(0) / scale).round().clamp(0, 15)
    codes = (groups / scale[:, None] + zero[:, None]).round().clamp(0, 15)
    return codes.flatten(0, 1).int(), zero.int(), scale


def _worth(codes: torch.Tensor, zero: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the weight [N, K] that codes stand for."""
    wide = [one.repeat_interleave(GROUP, 0) for one in (zero, scale)]
    return ((codes - wide[0]) * wide[1]).t().contiguous()


def _packed(values: torch.Tensor, dim: int, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Put eight values of four bits along a dimension into a word, in the given order from the lowest bits."""
    eights = values.unflatten(dim, (-1, 8)).movedim(dim + 1, -1).long()
    shifts = 4 * torch.arange(8)
    words = (eights[..., list(order)] << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def awq(weight: torch.Tensor) -> Quantised:
    """Quantise as AutoAWQ's GEMM layout: words along the outputs, zero points packed like the codes."""
    codes, zero, scale = _grouped(weight, symmetric=False)
    tensors = {
        "qweight": _packed(codes, 1, _AWQ_ORDER),
        "qzeros": _packed(zero, 1, _AWQ_ORDER),
        "scales": scale.half(),
    }
    return tensors, _worth(codes, zero, scale)


def gptq(weight: torch.Tensor) -> Quantised:
    """Quantise as GPTQ's first layout: words along the inputs, zero points stored less one."""
    codes, zero, scale = _grouped(weight, symmetric=True)
    tensors = {
        "qweight": _packed(codes, 0),
        "qzeros": _packed(zero - 1, 1),
        "scales": scale.half(),
        "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }
    return tensors, _worth(codes, zero, scale)


def _integers(bits: int, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "dynamic": False, "symmetric": True, **more}


_INT4 = _integers(4, strategy="group", group_size=GROUP)
_EACH_TOKEN = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
FORMATS: dict[str, Format] = {
    "W4A16": compressed_tensors(_INT4, None, "pack-quantized"),
    "W4A16 asymmetric": compressed_tensors({**_INT4, "symmetric": False}, None, "pack-quantized"),
    "W8A8 int8": compressed_tensors(_integers(8, strategy="channel"), _EACH_TOKEN, "int-quantized", "kv_b_proj"),
    "AWQ": (
        {
            "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": list(LEFT_ALONE),
        },
        awq,
        (),
    ),
    "GPTQ": (
        {
            "quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False,
            "dynamic": {f"-:.*{one.replace('.', chr(92) + '.')}.*": {} for one in LEFT_ALONE[1:]},
        },
        gptq,
        (),
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
