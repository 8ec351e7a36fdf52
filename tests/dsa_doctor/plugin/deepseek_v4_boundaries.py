"""What of DeepSeek-V4 no CPU runs, written out in PyTorch by each kernel's own contract; layers stay vLLM's.

These are four TileLang kernels of mHC, Marlin's product of e4m3 weights, Marlin's experts of MXFP4, the router's
kernel and the activation with a clamp. The mHC product before the norm is the plugin's own and is not among them.
"""

from collections.abc import Callable
from typing import Any

import torch

from tests.dsa_doctor.plugin.deepseek_v4_checkpoint import from_e2m1

_WORTH: dict[int, torch.Tensor] = {}
"""What weights stand for [.., columns, rows] in fp32, by their address: they stay where they were loaded."""


def write_out(routed: Callable[[torch.Tensor], None]) -> None:
    """Put the written-out kernels where vLLM calls them.

    Args:
        routed: told what each router chose, [T, picks].
    """
    from vllm import _custom_ops
    from vllm.model_executor.kernels.linear.scaled_mm import marlin
    from vllm.model_executor.kernels.mhc import tilelang_kernels as mhc
    from vllm.model_executor.layers.fused_moe.experts import marlin_moe
    from vllm.model_executor.layers.quantization.utils import marlin_utils_fp4

    mhc._MHC_PRE_BIG_FUSE_TILELANG_KERNEL = mhc_pre
    mhc._MHC_POST_TILELANG_KERNEL = mhc_post
    mhc._MHC_FUSED_TILELANG_KERNEL = mhc_post_and_product
    mhc._HC_HEAD_FUSED_TILELANG_KERNEL = mhc_head
    marlin.prepare_fp8_layer_for_marlin = lambda layer, *given, **named: None
    marlin.apply_fp8_marlin_linear = lambda input, **named: linear(input, **named)  # noqa: A006
    marlin_utils_fp4.prepare_moe_mxfp4_layer_for_marlin = lambda layer, *tensors: tensors
    marlin_moe.fused_marlin_moe = experts
    torch.ops._C.silu_and_mul_with_clamp = silu_and_mul_with_clamp

    def router(
        weights: torch.Tensor,
        chosen: torch.Tensor,
        token_expert: torch.Tensor,
        logits: torch.Tensor,
        renormalize: bool,
        factor: float,
        bias: torch.Tensor | None,
        tokens: torch.Tensor | None,
        table: torch.Tensor | None,
        **rest: Any,
    ) -> None:
        assert renormalize
        scores = torch.nn.functional.softplus(logits).sqrt()
        by = scores if bias is None else scores + bias
        picked = table[tokens.long()] if table is not None else by.topk(chosen.shape[1]).indices
        chosen.copy_(picked)
        taken = scores.gather(1, picked.long())
        weights.copy_(taken / taken.sum(-1, keepdim=True) * factor)
        routed(picked)

    _custom_ops.topk_hash_softplus_sqrt = router


def mhc_mix(
    product: torch.Tensor, squares: torch.Tensor, width: int, scale: torch.Tensor, base: torch.Tensor, eps: float
) -> torch.Tensor:
    """Return the mix [T, n] before any gate, of parts of the product [s, T, n] and of the sums of squares [s, T]."""
    norm = torch.rsqrt(squares.sum(0) / width + eps).unsqueeze(-1)
    return product.sum(0) * norm * scale + base


def mhc_pre(
    product: torch.Tensor,
    squares: torch.Tensor,
    scale: torch.Tensor,
    base: torch.Tensor,
    residual: torch.Tensor,
    post: torch.Tensor,
    comb: torch.Tensor,
    layer_input: torch.Tensor,
    rms_eps: float,
    pre_eps: float,
    sinkhorn_eps: float,
    post_factor: float,
    rounds: int,
    *,
    residual_out: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    norm_eps: float = 0.0,
) -> None:
    """From the product to the gates, the doubly stochastic mix and the collapsed, normed input of a layer.

    Args:
        residual: [T, n, hidden] bf16, or [T, hidden] where every stream is the same; then `residual_out` is written.
        post: [T, n] fp32, written; `comb` [T, n * n] fp32 and `layer_input` [T, hidden] bf16 as well.
    """
    streams = post.shape[1]
    width = residual.shape[-1] * (1 if residual.dim() == 2 else streams)
    if residual_out is not None:
        residual_out.copy_(residual.unsqueeze(1))
        residual = residual_out
    factors = scale.repeat_interleave(torch.tensor([streams, streams, streams * streams]))
    mix = mhc_mix(product, squares, width, factors, base, rms_eps)
    pre = torch.sigmoid(mix[:, :streams]) + pre_eps
    post.copy_(torch.sigmoid(mix[:, streams : 2 * streams]) * post_factor)
    square = mix[:, 2 * streams :].view(-1, streams, streams).softmax(-1) + sinkhorn_eps
    square = square / (square.sum(-2, keepdim=True) + sinkhorn_eps)
    for _ in range(rounds - 1):
        square = square / (square.sum(-1, keepdim=True) + sinkhorn_eps)
        square = square / (square.sum(-2, keepdim=True) + sinkhorn_eps)
    comb.copy_(square.flatten(1))
    collapsed = (pre.unsqueeze(-1) * residual.float()).sum(1)
    if norm_weight is not None:
        collapsed = collapsed * torch.rsqrt(collapsed.square().mean(-1, keepdim=True) + norm_eps) * norm_weight.float()
    layer_input.copy_(collapsed)


def mhc_post(
    comb: torch.Tensor,
    residual: torch.Tensor,
    post: torch.Tensor,
    layer_output: torch.Tensor,
    out: torch.Tensor,
    streams: int,
    hidden: int,
) -> None:
    """Mix the streams [T, n, hidden] among each other, and add the layer's output [T, hidden] to each by its gate."""
    del hidden
    mixed = comb.view(-1, streams, streams).transpose(1, 2) @ residual.float()
    out.copy_(mixed + post.unsqueeze(-1) * layer_output.float().unsqueeze(1))


def mhc_post_and_product(
    comb: torch.Tensor,
    residual: torch.Tensor,
    post: torch.Tensor,
    layer_output: torch.Tensor,
    fn: torch.Tensor,
    streams: int,
    hidden: int,
    rows: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `mhc_post`, and the next product of the streams with fn [rows, n, hidden], which few tokens take at once."""
    out = torch.empty_like(residual)
    mhc_post(comb, residual, post, layer_output, out, streams, hidden)
    flat = out.flatten(1).float()
    return (flat @ fn.view(rows, -1).T).unsqueeze(0), flat.square().sum(-1).unsqueeze(0), out


def mhc_head(
    residual: torch.Tensor,
    fn: torch.Tensor,
    scale: torch.Tensor,
    base: torch.Tensor,
    out: torch.Tensor,
    hidden: int,
    rms_eps: float,
    eps: float,
    streams: int,
) -> None:
    """Collapse the streams [T, n, hidden] after the last layer into out [T, hidden]."""
    flat = residual.flatten(1).float()
    mix = mhc_mix(
        (flat @ fn.T).unsqueeze(0), flat.square().sum(-1).unsqueeze(0), hidden * streams, scale, base, rms_eps
    )
    out.copy_(((torch.sigmoid(mix) + eps).unsqueeze(-1) * residual.float()).sum(1))


def linear(
    given: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None, **sizes: Any
) -> torch.Tensor:
    """Marlin's product of a bf16 input with e4m3 weights of blocks of 128 x 128, which stand as they were loaded."""
    assert bias is None
    if weight.data_ptr() not in _WORTH:
        spread = weight_scale.float().repeat_interleave(128, 0).repeat_interleave(128, 1)
        _WORTH[weight.data_ptr()] = (weight.float() * spread).T
    return (given.float() @ _WORTH[weight.data_ptr()]).to(given.dtype)


def experts(
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    w1_scale: torch.Tensor,
    w2_scale: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    activation: Any,
    activation_func: Callable[..., None],
    output: torch.Tensor,
    **rest: Any,
) -> torch.Tensor:
    """Marlin's experts: two products with MXFP4 weights, vLLM's own activation between them, and the weighted sum."""
    total = torch.zeros_like(output, dtype=torch.float32)
    for weight, scale in ((w1, w1_scale), (w2, w2_scale)):
        if weight.data_ptr() not in _WORTH:
            _WORTH[weight.data_ptr()] = from_e2m1(weight, scale).transpose(1, 2)
    for expert in topk_ids.unique().tolist():
        tokens, places = (topk_ids == expert).nonzero(as_tuple=True)
        up = hidden_states[tokens].float() @ _WORTH[w1.data_ptr()][expert]
        inner = up.new_empty((up.shape[0], up.shape[1] // 2), dtype=hidden_states.dtype)
        activation_func(activation, inner, up.to(hidden_states.dtype))
        down = inner.float() @ _WORTH[w2.data_ptr()][expert]
        total.index_add_(0, tokens, down * topk_weights[tokens, places].unsqueeze(-1))
    return output.copy_(total)


def silu_and_mul_with_clamp(out: torch.Tensor, given: torch.Tensor, limit: float, alpha: float, beta: float) -> None:
    """Write silu of the first half, at most `limit`, times the second half, within ± `limit`."""
    gate, up = given.float().chunk(2, -1)
    gate = gate.clamp(max=limit)
    out.copy_(gate * torch.sigmoid(alpha * gate) * (up.clamp(-limit, limit) + beta))
