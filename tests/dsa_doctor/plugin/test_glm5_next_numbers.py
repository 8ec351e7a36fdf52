"""A sparse layer of GLM-5.3-Flash under the plugin beside transformers', through vLLM's own caches and metadata.

On the first release that has the family and on the newest, which call the logits by other contracts. Two requests,
prefilled in chunks and mixed with decoding, beyond the selection; decoding and later chunks complete pools that a chunk
leaves open.
Left out: linear-attention layers, experts, hyper-connections, dense prefill, all of them vLLM's.
"""

from typing import Any

import pytest

from dsa_doctor.compat.releases import since
from tests.dsa_doctor.plugin.layer_child import answers_of
from tests.dsa_doctor.plugin.tiny_models import tiny_pooled_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHILD = "tests.dsa_doctor.plugin.glm5_next_layer_child"
FAULTS = ("selection", "rotation", "tail", "pool", "chunk")
LENGTHS = [234, 150]
STEPS = [
    [[1, 0, 82]],
    [[0, 0, 127], [1, 82, 142]],
    [[1, 142, 143], [0, 127, 226]],
    *([[0, token, token + 1], [1, token - 83, token - 82]] for token in range(226, 233)),
    [[0, 233, 234]],
]
"""(request, first token, end) of each step, decoding ones first."""
NOISE = 0.02
"""Relative; what bf16 leaves."""


@pytest.fixture(scope="module", params=[since("0.30.0")[0], RELEASES[-1]])
def answers(request: pytest.FixtureRequest, once: Once) -> dict[str, dict[str, Any]]:
    config = tiny_pooled_config(
        hidden_size=256, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=128, index_topk=128
    )
    asked = {
        "config": {**config["text_config"], "architectures": ["Glm5NextForCausalLM"]},
        "lengths": LENGTHS,
        "steps": STEPS,
        "faults": FAULTS,
    }
    release = str(request.param)
    return dict(once(f"numbers-glm5_next-{release}", lambda: answers_of(CHILD, release_folder(release), asked)))


def test_every_token_is_transformers(answers: dict[str, dict[str, Any]]) -> None:
    errors = answers["right"]["errors"]
    assert len(errors) == sum(LENGTHS)
    assert max(errors) < NOISE


def test_the_selection_is_whole_pools_and_the_open_one_and_the_best_there_is(
    answers: dict[str, dict[str, Any]],
) -> None:
    regrets = answers["right"]["regrets"]
    assert len(regrets) == sum(LENGTHS)
    assert max(regrets) < 0.3


def test_a_dropped_tail_is_seen(answers: dict[str, dict[str, Any]]) -> None:
    assert max(answers["tail"]["errors"]) > 5 * NOISE


@pytest.mark.parametrize("fault", ["selection", "rotation", "pool", "chunk"])
def test_a_planted_wrong_selection_is_seen(answers: dict[str, dict[str, Any]], fault: str) -> None:
    assert 0.5 < max(answers[fault]["regrets"]) < 9
