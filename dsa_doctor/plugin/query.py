"""The indexer's fused query path as a registered op, so that torch.compile takes it as it is."""

import torch

from dsa_doctor.plugin import ops

NAME = "fused_indexer_q_rope_quant"
_SCHEMA = (
    f"{NAME}(Tensor positions, Tensor q, Tensor cos_sin_cache, Tensor weights, float softmax_scale, float head_scale, "
    "bool is_neox) -> (Tensor, Tensor)"
)
_LIBRARY = torch.library.Library("dsa_doctor", "FRAGMENT")
"""Keeps the op registered for as long as it lives."""


def _shapes(
    positions: torch.Tensor,
    q: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    weights: torch.Tensor,
    softmax_scale: float,
    head_scale: float,
    is_neox: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return empty results, for tensors without data."""
    del positions, cos_sin_cache, softmax_scale, head_scale, is_neox
    return q.new_empty(q.shape, dtype=torch.float8_e4m3fn), weights.new_empty(weights.shape, dtype=torch.float32)


_LIBRARY.define(_SCHEMA)
for _key in ("CUDA", "CPU"):
    _LIBRARY.impl(NAME, ops.fused_indexer_q_rope_quant, _key)
_LIBRARY.impl(NAME, _shapes, "Meta")
