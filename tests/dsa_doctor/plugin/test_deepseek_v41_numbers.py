"""A whole tiny DeepSeek-V4.1 under the plugin beside an oracle in plain PyTorch, from a checkpoint of random weights.

Two requests, prefilled in chunks and mixed with decoding; more rows than are selected, and more blocks than are
candidates; groups that a chunk leaves open; n-grams that reach into the chunk before.
"""

from typing import Any

import pytest

from tests.dsa_doctor.plugin.layer_child import answers_of
from tests.dsa_doctor.plugin.tiny_models import YARN, tiny_v41_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

CHILD = "tests.dsa_doctor.plugin.deepseek_v41_model_child"
FAULTS = ("selection", "sink", "no rows", "position", "key's place", "engram's row", "product")
LENGTHS = [150, 70]
STEPS = [
    [[1, 0, 41]],
    [[0, 0, 90], [1, 41, 60]],
    [[1, 60, 61], [0, 90, 148]],
    [[0, 148, 149], [1, 61, 62]],
    [[0, 149, 150], [1, 62, 70]],
]
"""(request, first token, end) of each step, decoding ones first; odd ends leave a group of two open."""
NOISE = 0.03
"""Relative, of a token's logits; what bf16 leaves of six layers, seen up to 0.016."""
REGRET = 0.4
"""Of the scores' spread; what e4m3 keys and queries leave, seen up to 0.2."""

Answers = dict[str, dict[str, Any]]


def config() -> dict[str, Any]:
    small = tiny_v41_config(
        hidden_size=256,
        num_attention_heads=8,
        o_groups=2,
        o_lora_rank=64,
        q_lora_rank=128,
        index_topk=24,
        index_n_heads=16,
        sliding_window=32,
        n_routed_experts=4,
        moe_intermediate_size=64,
        vocab_size=64,
        candidate_topk_blocks=10,
        candidate_block_size=4,
        max_position_embeddings=512,
        rope_scaling={**YARN, "original_max_position_embeddings": 64},
    )
    del small["quantization_config"]
    return small


def computed(lengths: list[int], steps: list[Any], faults: tuple[str, ...] = (), **variables: str) -> Answers:
    request = {
        "config": config(),
        "lengths": lengths,
        "steps": steps,
        "faults": faults,
        "faulty steps": [[[0, 0, 60]]],
    }
    return answers_of(CHILD, release_folder(RELEASES[-1]), request, **variables)


@pytest.fixture(scope="module")
def answers(once: Once) -> Answers:
    return dict(once("model-deepseek_v41", lambda: computed(LENGTHS, STEPS, FAULTS)))


def test_every_token_has_the_oracle_s_logits(answers: Answers) -> None:
    errors = answers["right"]["errors"]
    assert len(errors) == sum(LENGTHS)
    assert max(errors) < NOISE


def test_selections_candidates_and_experts_are_the_best_there_are_up_to_rounding(answers: Answers) -> None:
    regrets = answers["right"]["regrets"]
    assert {"layer 2", "layer 4", "layer 5", "blocks", "experts 0"} <= regrets.keys()
    for name, values in regrets.items():
        assert len(values) == sum(LENGTHS)
        assert max(values) < REGRET, name


@pytest.mark.parametrize("fault", ["sink", "no rows", "position", "engram's row", "product"])
def test_a_planted_fault_is_seen_in_the_logits(answers: Answers, fault: str) -> None:
    assert max(answers[fault]["errors"]) > 2.5 * NOISE


@pytest.mark.parametrize("fault", ["selection", "key's place"])
def test_a_planted_fault_of_the_indexer_is_seen_in_what_it_selects(answers: Answers, fault: str) -> None:
    regrets = answers[fault]["regrets"]
    assert max(max(regrets[name]) for name in ("layer 2", "layer 4", "layer 5")) > 2 * REGRET


def test_the_kernels_themselves_take_what_vllm_hands_them() -> None:
    """The plugin's kernels, interpreted, on vLLM's own tensors: their checks of arguments, and what they compute."""
    steps = [[[1, 0, 5]], [[1, 5, 6], [0, 0, 58]], [[0, 58, 60], [1, 6, 8]]]
    found = computed([60, 8], steps, DSA_DOCTOR_KERNELS="triton")["right"]
    assert len(found["errors"]) == 60 + 8
    assert max(found["errors"]) < NOISE
    assert max(max(values) for values in found["regrets"].values()) < REGRET
