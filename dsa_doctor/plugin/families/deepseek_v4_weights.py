"""The first output projection of DeepSeek-V4 as a batched product reads it: values, not what a linear kernel packs."""

from typing import Any

import torch


def keep_as_stored_values(layer: Any) -> None:
    """Let a linear layer become [rows, columns] bf16 when its weights are loaded, whatever they are stored as.

    Its own quantisation method would repack it for a linear kernel (Marlin: int32), which no batched product reads.

    Args:
        layer: vLLM's linear layer, unquantised or of fp8 blocks. Its quantisation method is its own object.

    Raises:
        NotImplementedError: it is stored otherwise.
    """
    method = layer.quant_method
    weight, scale = layer.weight, _scale_of(layer)
    plain = weight.dtype is torch.bfloat16
    blocks = weight.dtype is torch.float8_e4m3fn and scale is not None
    if weight.dim() != 2 or not (plain or blocks):
        raise NotImplementedError(
            f"dsa-doctor serves DeepSeek-V4 whose projection wo_a is stored in bf16 or in e4m3 with scales; "
            f"{type(method).__name__} has {weight.dtype}. Set DSA_DOCTOR_PLUGIN=off to leave the model to vLLM."
        )

    def process_weights_after_loading(loaded: Any) -> None:
        found = _scale_of(loaded)
        if loaded.weight.dtype is torch.bfloat16:
            return
        assert found is not None
        name, stored = found
        values = values_of(loaded.weight.data, stored.data, getattr(loaded, "weight_block_size", None))
        delattr(loaded, name)
        loaded.weight = torch.nn.Parameter(values, requires_grad=False)

    method.process_weights_after_loading = process_weights_after_loading


def values_of(codes: torch.Tensor, scale: torch.Tensor, block: Any) -> torch.Tensor:
    """Return what e4m3 codes with scales stand for, rounded to bf16 once.

    Args:
        codes: [rows, columns] torch.float8_e4m3fn.
        scale: one, [rows] or [rows, 1], or [ceil(rows / block rows), ceil(columns / block columns)]; float or e8m0, as
            bytes too.
        block: (rows, columns) that share a scale; None where scales are not spread in blocks.
    """
    if scale.dtype is torch.uint8:
        scale = scale.view(torch.float8_e8m0fnu)
    factors = scale.float()  # exact for e8m0
    if factors.numel() == 1:
        factors = factors.reshape(1, 1)
    elif block is None:
        factors = factors.reshape(-1, 1)
    else:
        factors = factors.repeat_interleave(int(block[0]), 0)[: codes.shape[0]]
        factors = factors.repeat_interleave(int(block[1]), 1)[:, : codes.shape[1]]
    return (codes.float() * factors).to(torch.bfloat16)


def _scale_of(layer: Any) -> tuple[str, torch.Tensor] | None:
    for name in ("weight_scale_inv", "weight_scale"):
        found = getattr(layer, name, None)
        if isinstance(found, torch.Tensor):
            return name, found
    return None
