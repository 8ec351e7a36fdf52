"""The whole of GLM-5.3-Flash under the plugin beside transformers' logits, on the CPU.

vLLM's own class with both kinds of layers, each twice, loads a checkpoint that transformers wrote. Three requests: one
prefilled in chunks that end inside a pool and inside a block, one longer than the selection, one that begins with the
first block of another (a prefix hit); then all decode. Drafts, images and dense prefill are left out.
"""

from typing import Any

import pytest

from tests.dsa_doctor.plugin.layer_child import answers_of
from tests.dsa_doctor.plugin.tiny_models import tiny_pooled_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CHILD = "tests.dsa_doctor.plugin.glm5_next_model_child"
FAULTS = ("tail", "chunk", "prefix")
LENGTHS = [230, 146, 170]
SHARED = {2: 0}
"""Request that begins with the first block of another."""
STEPS = [
    [[1, 0, 82]],
    [[0, 0, 128], [1, 82, 128]],
    [[1, 128, 142], [2, 128, 167], [0, 128, 226]],
    *([[0, 226 + one, 227 + one], [1, 142 + one, 143 + one], [2, 167 + one, 168 + one]] for one in range(3)),
    [[0, 229, 230], [1, 145, 146]],
]
"""(request, first token, end) of each step, decoding ones first."""
PREFILLED = 3
"""Steps after which a planted fault shows."""
NOISE = 0.1
"""Relative; bf16 through four layers and hyper-connections leaves half of it."""


@pytest.fixture(scope="module")
def answers(once: Once) -> dict[str, dict[str, Any]]:
    config = tiny_pooled_config(
        hidden_size=256, intermediate_size=256, moe_intermediate_size=64, num_attention_heads=4, num_key_value_heads=4,
        q_lora_rank=128, index_topk=128, linear_num_heads=2, vocab_size=512, num_nextn_predict_layers=0, pad_token_id=0,
        layer_types=["linear_attention", "indexed_attention"] * 2, mlp_layer_types=["dense", *["sparse"] * 3],
    )  # fmt: skip
    config["vision_config"]["out_hidden_size"] = 256
    asked = {
        "config": config,
        "lengths": LENGTHS,
        "shared": SHARED,
        "steps": STEPS,
        "faults": FAULTS,
        "steps_with_a_fault": PREFILLED,
    }
    return dict(once("model-glm5_next", lambda: answers_of(CHILD, release_folder(RELEASES[-1]), asked)))


def worst(answer: dict[str, Any]) -> float:
    return max(error for errors in answer["errors"].values() for error in errors)


def test_the_logits_of_every_token_are_transformers(answers: dict[str, dict[str, Any]]) -> None:
    served = {request: len(errors) for request, errors in answers["right"]["errors"].items()}
    assert served == {"0": 230, "1": 146, "2": 170 - 128}
    assert worst(answers["right"]) < NOISE


def test_what_is_selected_is_the_best_there_is(answers: dict[str, dict[str, Any]]) -> None:
    assert max(answers["right"]["regrets"]) < 0.3
    assert max(answers["right"]["routing"]) < 0.05, "experts"


def test_a_chunk_that_forgets_the_one_before_is_seen(answers: dict[str, dict[str, Any]]) -> None:
    assert 0.5 < max(answers["chunk"]["regrets"]) < 9


def test_a_dropped_tail_is_seen(answers: dict[str, dict[str, Any]]) -> None:
    assert worst(answers["tail"]) > 2 * NOISE


def test_a_stale_state_after_a_prefix_hit_is_seen(answers: dict[str, dict[str, Any]]) -> None:
    errors = answers["prefix"]["errors"]
    assert max(errors["2"]) > 2 * NOISE
    assert max(errors["0"]) < NOISE
