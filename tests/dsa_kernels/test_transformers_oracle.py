"""The ops against transformers' own DSA layers: selection and attention of one layer, beyond index_topk."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

import pytest
import torch

from dsa_kernels import naive_sparse_mla_fwd, sparse_mla_fwd
from dsa_kernels.fp8 import quantize_fp8_ue8m0
from dsa_kernels.indexer import fp8_mqa_logits, indexer_topk

for companion in ("torchvision", "torchaudio"):
    try:
        importlib.import_module(companion)
    except Exception:
        # One that was built for another torch counts as none: transformers only looks whether it is installed.
        sys.modules[companion] = None

transformers = pytest.importorskip("transformers")

TOKENS = 100
TOPK = 40
KERNEL_TOKENS = 16
MODELS = {"GlmMoeDsa": "glm_moe_dsa", "DeepseekV32": "deepseek_v32"}


class Rounded(torch.nn.Module):
    """A module whose output is rounded to integers of at most 8: numbers that e4m3 holds."""

    def __init__(self, inner: torch.nn.Module, gain: float) -> None:
        super().__init__()
        self.inner = inner
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.inner(x) * self.gain).round().clamp(-8, 8)


@dataclass
class Layer:
    """One attention layer, its input and what transformers makes of it."""

    attention: torch.nn.Module
    module: object
    hidden: torch.Tensor
    angles: tuple[torch.Tensor, torch.Tensor]
    selected: torch.Tensor
    output: torch.Tensor

    def indexer_inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The layer's own q [S, H, 128], k [S, 128] and weights [S, H] with both scales folded in, fp32."""
        indexer = self.attention.indexer
        q = indexer.wq_b(self.query_residual()).view(1, TOKENS, indexer.n_heads, 128)
        k = indexer.k_norm(indexer.wk(self.hidden)).unsqueeze(2)
        rope = indexer.qk_rope_head_dim
        rotate = getattr(self.module, "apply_rotary_pos_emb", None)
        if "Glm" in type(indexer).__name__:
            rotate = self.module.apply_rotary_pos_emb_interleave
        q_rope, k_rope = rotate(q[..., :rope], k[..., :rope], *self.angles, unsqueeze_dim=2)
        q, k = torch.cat((q_rope, q[..., rope:]), -1), torch.cat((k_rope, k[..., rope:]), -1)
        weights = indexer.weights_proj(self.hidden) * (indexer.n_heads**-0.5 * indexer.softmax_scale)
        return q[0], k[0, :, 0], weights[0].contiguous()

    def query_residual(self) -> torch.Tensor:
        return self.attention.q_a_layernorm(self.attention.q_a_proj(self.hidden))

    def attend(self, indices: torch.Tensor, exact: bool) -> torch.Tensor:
        """The layer's output over the rows that `indices` [S, topk] selects, by the sparse MLA op on latents.

        With `exact` by the reference in fp64, else by the kernel in bf16 and for the last tokens only.
        """
        layer = self.attention
        heads, nope, rope = layer.num_heads, layer.qk_nope_head_dim, layer.qk_rope_head_dim
        q = layer.q_b_proj(self.query_residual()).view(1, TOKENS, heads, nope + rope).transpose(1, 2)
        compressed = layer.kv_a_proj_with_mqa(self.hidden)
        latent = layer.kv_a_layernorm(compressed[..., :512])[0]
        k_rope = compressed[..., 512:].view(1, 1, TOKENS, rope)
        q_rope, k_rope = self.module.apply_rotary_pos_emb_interleave(q[..., nope:], k_rope, *self.angles)
        expand = layer.kv_b_proj.weight.view(heads, nope + layer.v_head_dim, 512)
        absorbed = torch.einsum("htn,hnl->thl", q[0, ..., :nope], expand[:, :nope])
        query = torch.cat((absorbed, q_rope[0].transpose(0, 1)), -1)  # [S, H, 576]
        rows = torch.cat((latent, k_rope[0, 0]), -1)[:, None]  # [S, 1, 576]
        if exact:
            result = naive_sparse_mla_fwd(query, rows, indices[:, None], layer.scaling)[0].float()
        else:
            result = torch.zeros_like(query[..., :512])
            case = (query[-KERNEL_TOKENS:].bfloat16(), rows.bfloat16(), indices[-KERNEL_TOKENS:, None])
            result[-KERNEL_TOKENS:] = sparse_mla_fwd(*case, layer.scaling)[0].float()
        values = torch.einsum("thl,hvl->thv", result, expand[:, nope:])
        return layer.o_proj(values.flatten(1))


def build(name: str, device: torch.device, representable: bool) -> Layer:
    """A tiny random layer; with `representable`, indexer inputs for which e4m3 and fp32 sums are exact."""
    module = importlib.import_module(f"transformers.models.{MODELS[name]}.modeling_{MODELS[name]}")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        hidden_size=256,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=16,
        q_lora_rank=128,
        kv_lora_rank=512,
        qk_nope_head_dim=64,
        qk_rope_head_dim=64,
        v_head_dim=64,
        index_n_heads=16,
        index_head_dim=128,
        index_topk=TOPK,
        n_routed_experts=8,
        vocab_size=64,
        attn_implementation="eager",
    )
    attention = getattr(module, f"{name}Attention")(config, 0).to(device).eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=2 * parameter.shape[1] ** -0.5)
    hidden = torch.randn(1, TOKENS, 256, device=device)
    positions = torch.arange(TOKENS, device=device)[None]
    angles = getattr(module, f"{name}RotaryEmbedding")(config).to(device)(hidden, positions)
    if representable:
        angles = (torch.ones_like(angles[0]), torch.zeros_like(angles[1]))
        indexer = attention.indexer
        indexer.wq_b, indexer.k_norm = Rounded(indexer.wq_b, 1.0), Rounded(indexer.k_norm, 3.0)
        indexer.weights_proj = Rounded(indexer.weights_proj, 4.0)
        indexer.weights_proj.weight = indexer.weights_proj.inner.weight
        indexer.softmax_scale = 2.0**-4
    mask = torch.full((TOKENS, TOKENS), float("-inf"), device=device).triu(1)[None, None]
    chosen = []
    attention.indexer.register_forward_hook(lambda _module, _inputs, output: chosen.append(output))
    with torch.no_grad():
        output = attention(hidden, angles, mask.clamp_min(torch.finfo(torch.float32).min))[0]
    return Layer(attention, module, hidden, angles, chosen[0][0], output[0])


def causal_bounds(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    ends = torch.arange(1, TOKENS + 1, dtype=torch.int32, device=device)
    return torch.zeros_like(ends), ends


def exact_scores(q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The layer's formula in fp64 on unquantised inputs, causal: [S, S]."""
    scores = torch.einsum(
        "mh,mhn->mn", weights.double(), torch.relu(torch.einsum("mhd,nd->mhn", q.double(), k.double()))
    )
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))


@pytest.fixture(params=[*MODELS])
def name(request) -> str:
    return request.param


@pytest.mark.slow
@torch.no_grad()
def test_representable_inputs_give_exactly_transformers_selection_and_output(device, name):
    layer = build(name, device, representable=True)
    q, k, weights = layer.indexer_inputs()
    q_codes, k_codes = q.to(torch.float8_e4m3fn), k.to(torch.float8_e4m3fn)
    assert torch.equal(q_codes.float(), q)
    assert torch.equal(k_codes.float(), k)
    starts, ends = causal_bounds(device)
    scale = torch.ones(TOKENS, device=device)
    logits = fp8_mqa_logits(q_codes, (k_codes, scale), weights, starts, ends)
    reference = exact_scores(q, k, weights)
    assert torch.equal(logits.double(), reference)
    mine = indexer_topk(q_codes, (k_codes, scale), weights, starts, ends, TOPK, budget_bytes=40_000)
    compared = 0
    for row in range(TOPK, TOKENS):
        ours, theirs = mine[row].long(), layer.selected[row].long()
        values = reference[row]
        assert torch.equal(values[ours].sort().values, values[theirs].sort().values)
        ordered = values.sort(descending=True).values
        if ordered[TOPK - 1] > ordered[TOPK]:
            # Nothing ties at the border, so the sets themselves are equal.
            assert torch.equal(ours, theirs.sort().values)
            compared += 1
    assert compared >= (TOKENS - TOPK) * 0.9
    untied = torch.tensor(
        [
            set(a) - {-1} == {t for t in b if t <= row}
            for row, (a, b) in enumerate(zip(mine.tolist(), layer.selected.tolist(), strict=True))
        ],
        device=device,
    )
    torch.testing.assert_close(layer.attend(mine, exact=True)[untied], layer.output[untied], rtol=1e-4, atol=1e-4)
    last = untied.nonzero()[:, 0][-KERNEL_TOKENS // 2 :]
    assert last.min() >= TOKENS - KERNEL_TOKENS
    rounded = layer.attend(mine, exact=False)[last]
    assert (rounded - layer.output[last]).norm() / layer.output[last].norm() < 0.02


@pytest.mark.slow
@torch.no_grad()
def test_quantised_selection_disagrees_only_where_quantisation_can_decide(device, name):
    layer = build(name, device, representable=False)
    q, k, weights = layer.indexer_inputs()
    q_codes, q_scale = quantize_fp8_ue8m0(q.contiguous())
    k_codes, k_scale = quantize_fp8_ue8m0(k.contiguous())
    starts, ends = causal_bounds(device)
    case = (q_codes, (k_codes, k_scale), weights * q_scale.squeeze(-1), starts, ends)
    mine = indexer_topk(*case, TOPK)
    exact = exact_scores(q, k, weights)
    inside = exact > float("-inf")
    # Half of e4m3's last place on either side: a factor of 1 ± 2^-4 on q and on k, and half of 2^-9 below 2^-6.
    q_slack = q.abs().double() * 2**-4 + q_scale.double() * 2**-10
    k_slack = k.abs().double() * 2**-4 + k_scale.double() * 2**-10
    product_slack = torch.einsum("mhd,nd->mhn", q_slack, k.abs().double() + k_slack) + torch.einsum(
        "mhd,nd->mhn", q.abs().double(), k_slack
    )
    bound = torch.einsum("mh,mhn->mn", weights.abs().double(), product_slack)
    error = (fp8_mqa_logits(*case).double() - exact).abs()
    assert (error[inside] <= bound[inside]).all()
    overlaps = []
    for row in range(TOPK, TOKENS):
        ours, theirs = mine[row].long(), layer.selected[row].long()
        overlaps.append(len(set(ours.tolist()) & set(theirs.tolist())) / TOPK)
        # Whatever was selected instead is at most two errors of this row away from the border.
        border = exact[row].sort(descending=True).values[TOPK - 1]
        assert exact[row][ours].min() >= border - 2 * error[row][: row + 1].max() - 1e-6
    assert sum(overlaps) / len(overlaps) > 0.93
    assert min(overlaps) > 0.85
    late = slice(TOPK, TOKENS)
    difference = layer.attend(mine, exact=True)[late] - layer.output[late]
    assert difference.norm() / layer.output[late].norm() < 0.3
    # Before index_topk everything is selected, and the outputs agree.
    torch.testing.assert_close(layer.attend(mine, exact=True)[:TOPK], layer.output[:TOPK], rtol=1e-4, atol=1e-4)
