"""The compressor's ops against the modules of transformers' DeepSeek-V4."""

import pytest
import torch

from dsa_kernels.compressor import compress_to_index_keys, compress_to_rows, inverse_rope_grouped
from dsa_kernels.fp8 import naive_read_indexer_cache
from tests.dsa_kernels.kpool.cases import poisoned_cache, values

transformers = pytest.importorskip("transformers")
modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")

HIDDEN, TOKENS, BLOCK = 64, 260, 4


@pytest.fixture(scope="module")
def config():
    return transformers.DeepseekV4Config(
        hidden_size=HIDDEN,
        num_attention_heads=4,
        head_dim=512,
        q_lora_rank=32,
        index_head_dim=128,
        index_n_heads=4,
        index_topk=8,
        num_hidden_layers=2,
        o_groups=2,
    )


def made(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights, as a checkpoint has them."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        scale = 0.5 if "bias" in name else 1 / weight.shape[-1] ** 0.5
        drawn = torch.randn(weight.shape, generator=generator) * scale
        weight.data = 1 + 0.3 * drawn if "norm" in name else drawn
    return module.eval()


def operands(module: torch.nn.Module, hidden: torch.Tensor, ratio: int, overlap: bool) -> dict[str, object]:
    """What vLLM keeps of the tokens: each one's values and scores, in blocks of a shuffled table."""
    positions = torch.arange(TOKENS)
    with torch.no_grad():
        value = module.kv_proj(hidden)[0]
        score = module.gate_proj(hidden)[0] + module.position_bias[positions % ratio]
        cos, sin = module.rotary_emb(hidden, position_ids=positions[None], layer_type="compress")
    table = torch.randperm(TOKENS // BLOCK, generator=torch.Generator().manual_seed(1))
    states = torch.cat((value, score), -1).view(TOKENS // BLOCK, BLOCK, -1)
    state_cache = torch.empty_like(states)
    state_cache[table] = states
    ends = (positions + 1) % ratio == 0
    return {
        "state_cache": state_cache,
        "token_to_request": torch.zeros(TOKENS, dtype=torch.int32),
        "positions": positions,
        "state_slots": positions,
        "block_table": table[None].int(),
        "norm_weight": module.kv_norm.weight.data,
        "eps": module.kv_norm.variance_epsilon,
        "cos_sin_cache": torch.cat((cos[0], sin[0]), -1),
        "slot_mapping": torch.where(ends, positions // ratio, -1),
        "ratio": ratio,
        "overlap": overlap,
    }


def on(device, given):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in given.items()}


@pytest.fixture(scope="module")
def hidden() -> torch.Tensor:
    return torch.randn(1, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2))


def compressed_rows(module, hidden):
    with torch.no_grad():
        rows, _ = module(hidden, torch.zeros(1, TOKENS, 32), torch.arange(TOKENS)[None], None, 0)
    return rows[0, 0]


@pytest.mark.parametrize("kind", ["heavily", "sparsely"])
def test_rows_are_those_of_the_compressor(device, config, hidden, kind):
    heavily = kind == "heavily"
    module = made((modeling.DeepseekV4HCACompressor if heavily else modeling.DeepseekV4CSACompressor)(config))
    ratio = module.compress_rate
    assert ratio == (128 if heavily else 4)
    wanted = compressed_rows(module, hidden)
    cache = torch.zeros(2, 64, 512, dtype=torch.bfloat16, device=device)
    compress_to_rows(**on(device, operands(module, hidden, ratio, not heavily)), kv_cache=cache)
    found = cache.view(-1, 512)[: TOKENS // ratio].float().cpu()
    assert wanted.shape == found.shape
    assert torch.allclose(found, wanted, rtol=2**-7, atol=2e-3)


def test_index_keys_are_those_of_the_indexer(device, config, hidden):
    module = made(modeling.DeepseekV4Indexer(config))
    seen = []
    module.scorer.forward = lambda q, keys, states: seen.append(keys[0]) or torch.zeros(1, TOKENS, keys.shape[1])
    with torch.no_grad():
        module(hidden, torch.zeros(1, TOKENS, 32), torch.arange(TOKENS)[None], None, 0)
    (wanted,) = seen
    cache = poisoned_cache(2, 64).to(device)
    compress_to_index_keys(**on(device, operands(module, hidden, 4, True)), kv_cache=cache)
    codes, scale = naive_read_indexer_cache(cache.cpu(), torch.arange(TOKENS // 4))
    # Half a step of e4m3, and two roundings to bf16, of which the rope mixes the first into its pair.
    bound = wanted.abs() / 16 + wanted.abs().amax(1, keepdim=True) * 2.0**-8 + scale[:, None] * 2.0**-9
    assert ((values(codes, scale) - wanted).abs() <= bound).all()


def test_the_output_is_turned_back_as_the_attention_does(device, config, hidden):
    rotary = modeling.DeepseekV4RotaryEmbedding(config)
    positions = torch.arange(7) * 31
    cos, sin = rotary(hidden, position_ids=positions[None], layer_type="compress")
    o = torch.randn(1, 7, 4, 512, generator=torch.Generator().manual_seed(3)).bfloat16()
    turned = modeling.apply_rotary_pos_emb(o.transpose(1, 2), cos, -sin).transpose(1, 2)
    wanted = turned.reshape(1, 7, 2, -1)[0].transpose(0, 1)  # as o_a_proj takes it, group by group
    table = torch.zeros(200, 64)
    table[positions] = torch.cat((cos[0], sin[0]), -1)
    found = inverse_rope_grouped(o[0].to(device), positions.to(device), table.to(device), 2)
    assert torch.allclose(found.cpu().float(), wanted.float(), rtol=2**-7, atol=1e-3)
