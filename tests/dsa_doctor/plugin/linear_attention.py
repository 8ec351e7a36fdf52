"""Plain references of the Triton kernels that vLLM's linear-attention layers (KDA) call, by their contracts."""

from collections.abc import Iterator
from typing import Any

import torch

Ranges = Iterator[tuple[int, int, int]]


def _each(starts: torch.Tensor, count: int) -> Ranges:
    """Yield (sequence, first token, end)."""
    ends = starts.tolist()
    yield from ((one, ends[one], ends[one + 1]) for one in range(count))


def causal_conv1d_fn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    conv_states: torch.Tensor,
    query_start_loc: torch.Tensor,
    cache_indices: torch.Tensor,
    has_initial_state: torch.Tensor,
    activation: str,
    **others: Any,
) -> torch.Tensor:
    """Return x [dim, T] convolved; each sequence begins with its state [dim, width - 1], or zeros, and leaves one."""
    del others  # metadata of the kernel's grid
    assert bias is None
    assert activation == "silu"
    out, width = torch.empty_like(x), weight.shape[1]
    for one, first, end in _each(query_start_loc, len(cache_indices)):
        slot = int(cache_indices[one])
        before = conv_states[slot] if has_initial_state[one] else torch.zeros_like(conv_states[slot])
        seen = torch.cat([before.to(x.dtype), x[:, first:end]], dim=1)
        windows = seen.float().unfold(1, width, 1)  # [dim, tokens, width]
        out[:, first:end] = torch.nn.functional.silu((windows * weight.float().unsqueeze(1)).sum(-1)).to(x.dtype)
        conv_states[slot] = seen[:, -(width - 1) :].to(conv_states.dtype)
    return out


def causal_conv1d_update(
    x: torch.Tensor,
    conv_state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    conv_state_indices: torch.Tensor,
) -> torch.Tensor:
    """As `causal_conv1d_fn`, of one token [n, dim] for each sequence."""
    starts = torch.arange(len(x) + 1)
    known = torch.ones(len(x), dtype=torch.bool)
    return causal_conv1d_fn(x.T, weight, bias, conv_state, starts, conv_state_indices, known, activation).T


def gather_initial_states(state: torch.Tensor, indices: torch.Tensor, has_initial_state: torch.Tensor) -> torch.Tensor:
    """Return rows of a state, zeros where a sequence has none."""
    return torch.where(has_initial_state.view(-1, 1, 1, 1), state[indices.long()], 0)


def scatter_states(state: torch.Tensor, rows: torch.Tensor, indices: torch.Tensor) -> None:
    """Write rows of a state."""
    state[indices.long()] = rows.to(state.dtype)


def chunk_kda_with_fused_gate(
    *,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    raw_g: torch.Tensor,
    beta: torch.Tensor,
    A_log: torch.Tensor,
    g_bias: torch.Tensor,
    initial_state: torch.Tensor,
    cu_seqlens: torch.Tensor,
    lower_bound: float,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output [1, T, H, D] of whole sequences and the state that each leaves."""
    assert others["safe_gate"]
    assert others["use_qk_l2norm_in_kernel"]
    out, last = torch.empty_like(q), initial_state.float().clone()
    for one, first, end in _each(cu_seqlens, len(initial_state)):
        given = (part[0, first:end] for part in (q, k, v, raw_g, beta))
        out[0, first:end], last[one] = _recurrent(*given, A_log, g_bias, lower_bound, last[one])
    return out, last


def fused_recurrent_kda(
    *,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    initial_state: torch.Tensor,
    cu_seqlens: torch.Tensor,
    ssm_state_indices: torch.Tensor,
    out: torch.Tensor,
    a_log: torch.Tensor,
    g_bias: torch.Tensor,
    lower_bound: float,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `chunk_kda_with_fused_gate`, on states in their cache and raw beta, into `out`."""
    assert others["sigmoid_beta"]
    assert others["compute_gate"]
    assert others["use_qk_l2norm_in_kernel"]
    for one, first, end in _each(cu_seqlens, len(cu_seqlens) - 1):
        slot = int(ssm_state_indices[one])
        given = (part[0, first:end] for part in (q, k, v, g, beta.float().sigmoid()))
        out[0, first:end], initial_state[slot] = _recurrent(
            *given, a_log, g_bias, lower_bound, initial_state[slot].float()
        )
    return out, initial_state


def _recurrent(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    raw_gate: torch.Tensor,
    beta: torch.Tensor,
    a_log: torch.Tensor,
    bias: torch.Tensor,
    lower_bound: float,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one sequence's output [T, H, D] and its state [H, D, D], token by token in fp32."""
    heads, width = q.shape[1:]
    gate = raw_gate.float() + bias.float().view(heads, width)
    decay = (lower_bound * torch.sigmoid(a_log.float().exp().view(heads, 1) * gate)).exp()
    q, k = (part.float() / (part.float().square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    found = []
    for token in range(len(q)):
        state = state * decay[token].unsqueeze(-1)
        learnt = (v[token].float() - torch.einsum("hkv,hk->hv", state, k[token])) * beta[token].float().unsqueeze(-1)
        state = state + torch.einsum("hk,hv->hkv", k[token], learnt)
        found.append(torch.einsum("hkv,hk->hv", state, q[token]) * width**-0.5)
    return torch.stack(found).to(v.dtype), state
