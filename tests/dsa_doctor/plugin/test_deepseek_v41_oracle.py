"""Each part of the oracle of DeepSeek-V4.1 beside vLLM's own torch references, or transformers' DeepSeek-V4."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.dsa_doctor.plugin.deepseek_v41.checkpoint import checkpoint
from tests.dsa_doctor.plugin.deepseek_v41.engram import engram_rows
from tests.dsa_doctor.plugin.deepseek_v41.oracle import Oracle, Selections, regrets
from tests.dsa_doctor.plugin.deepseek_v41.rope import angles, rotate_end
from tests.dsa_doctor.plugin.deepseek_v41.streams import collapse, mixes, spread
from tests.dsa_doctor.plugin.tiny_models import tiny_v4_config, tiny_v41_config
from tests.releases import RELEASES, release_folder

TEXT = tiny_v41_config(hidden_size=64, n_routed_experts=4, moe_intermediate_size=32)["text_config"]


@pytest.fixture(scope="module")
def vllm() -> Path:
    return release_folder(RELEASES[-1]) / "vllm"


def test_delayed_streams_are_vllm_s(vllm: Path) -> None:
    file = vllm / "model_executor/kernels/mhc/torch.py"
    spec = importlib.util.spec_from_file_location("mhc_torch", file)
    assert spec is not None
    assert spec.loader is not None
    theirs: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    generator = torch.Generator().manual_seed(0)
    streams, out = torch.randn(5, 4, 64, generator=generator), torch.randn(5, 64, generator=generator)
    fn, scale = torch.randn(24, 256, generator=generator) / 16, torch.randn(3, generator=generator)
    base, carried = torch.randn(24, generator=generator), torch.rand(5, 4, generator=generator)
    found = mixes(streams, fn, scale, base, 1e-20, 1e-6, 20)
    for before in (None, carried):
        post, comb, given, after = theirs.mhc_pre_delayed_torch(
            streams, fn, scale, base, 1e-20, 1e-6, 1e-6, 2.0, 20, before
        )
        torch.testing.assert_close(collapse(streams, before), given)
    torch.testing.assert_close(found.before, after)
    torch.testing.assert_close(found.after, post.squeeze(-1))
    torch.testing.assert_close(found.between, comb)
    torch.testing.assert_close(spread(streams, out, found), theirs.mhc_post_torch(out, streams, post, comb))


def test_hashes_use_vllm_s_primes_offsets_and_factors(vllm: Path) -> None:
    """vLLM's layout and factors, cut out of its module, which needs a GPU; the formula is the published one."""
    tree = ast.parse((vllm / "models/deepseek_v41/common/engram.py").read_text())
    wanted = {"_is_prime", "find_next_prime", "compute_hash_multipliers", "EngramLayout"}
    tree.body = [one for one in tree.body if getattr(one, "name", "") in wanted]
    theirs: dict[str, Any] = {"np": np, "torch": torch}
    exec(compile(tree, "engram", "exec"), theirs)

    config = {**TEXT, "engram_layer_ids": [1, 3], "engram_num_embeddings": [2048, 4096]}
    layout = theirs["EngramLayout"](type("Config", (), config))
    factors = theirs["compute_hash_multipliers"]((1, 3), 3, config["engram_compressed_vocab_size"])
    ids = torch.tensor([5, 0, 31, 31, 7])
    for number, layer in enumerate((1, 3)):
        found = engram_rows(config, layer, ids, 2)
        flat = [prime for primes in layout.primes[number] for prime in primes]
        for token in range(len(ids)):
            words = [int(ids[token - back]) if token >= back else 2 for back in range(3)]
            pair = words[0] * int(factors[number][0]) ^ words[1] * int(factors[number][1])
            triple = pair ^ words[2] * int(factors[number][2])
            expected = [
                (pair if column < 4 else triple) % prime + int(layout.offsets[number][column])
                for column, prime in enumerate(flat)
            ]
            assert found[token].tolist() == expected


def test_angles_and_rotation_are_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    from transformers.models.deepseek_v4 import DeepseekV4Config

    given = tiny_v4_config()
    rotary = modeling.DeepseekV4RotaryEmbedding(DeepseekV4Config(**given))
    positions = torch.arange(0, 90000, 977)
    x = torch.randn(len(positions), 96, generator=torch.Generator().manual_seed(1))
    for kind in ("main", "compress"):
        cos, sin = rotary(x, position_ids=positions[None], layer_type=kind)
        turn = angles(TEXT, positions, compressed=kind == "compress")
        torch.testing.assert_close(cos[0], turn.cos().float(), atol=2e-2, rtol=0)  # fp32 angles of far positions
        wanted = modeling.apply_rotary_pos_emb(x[None, None], cos, sin)[0, 0]
        torch.testing.assert_close(rotate_end(x, turn), wanted, atol=5e-2, rtol=0)
    torch.testing.assert_close(rotate_end(rotate_end(x, turn), turn, inverse=True), x)


def test_experts_are_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    from transformers.models.deepseek_v4 import DeepseekV4Config

    tensors = checkpoint(TEXT)
    sizes = {key: TEXT[key] for key in ("hidden_size", "n_routed_experts", "moe_intermediate_size")}
    config = DeepseekV4Config(**tiny_v4_config(num_hash_layers=0, **sizes))
    block = modeling.DeepseekV4SparseMoeBlock(config, 3).float()
    at = "layers.3.ffn."
    block.gate.weight.data = tensors[f"{at}gate.weight"].float()
    block.gate.e_score_correction_bias.data = tensors[f"{at}gate.bias"]
    parts = {name: getattr(block.shared_experts, f"{name}_proj") for name in ("gate", "up", "down")}
    for name, stored in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        parts[name].weight.data = tensors[f"{at}shared_experts.{stored}.weight"].float()
    for number in range(4):
        one, two, three = (tensors[f"{at}experts.{number}.w{part}.weight"].float() for part in (1, 2, 3))
        block.experts.gate_up_proj.data[number] = torch.cat((one, three))
        block.experts.down_proj.data[number] = two
    x = 4 * torch.randn(7, 64, generator=torch.Generator().manual_seed(2))  # the limit of the activation is met
    _, _, order = block.gate(x)
    chosen = Selections({}, torch.empty(0), [order] * 4)
    with torch.no_grad():
        wanted = block(x[None])[0]
    torch.testing.assert_close(Oracle(TEXT, tensors, []).experts(at, 3, x, chosen), wanted, atol=1e-4, rtol=1e-4)
    assert max(chosen.regrets["experts 3"]) == 0


@pytest.mark.parametrize(
    ("taken", "regret"),
    [
        ([2, 0], 0.0),
        ([2, 1], 1.0),
        ([2, 2], 9.0),  # twice
        ([2, -1], 9.0),  # one too few
        ([2, 3], 9.0),  # the future
        ([2, 4], 9.0),  # no such row
    ],
)
def test_what_a_selection_regrets(taken: list[int], regret: float) -> None:
    scores = torch.tensor([[2.0, 1.0, 3.0, float("-inf")]])
    assert regrets(scores, torch.tensor([taken])) == [regret]
