"""Layers of DeepSeek-V4's attention under the plugin beside transformers', through vLLM's own caches and metadata.

Two requests, prefilled in chunks and mixed with decoding; more than twice as many rows as are selected, groups of 128.
"""

from typing import Any

import pytest

from tests.dsa_doctor.plugin.layer_child import answers_of
from tests.dsa_doctor.plugin.tiny_models import YARN, tiny_v4_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHILD = "tests.dsa_doctor.plugin.deepseek_v4_layer_child"
FAULTS = ("selection", "sink", "position", "group")
LENGTHS = [300, 140]
STEPS = [
    [[1, 0, 90]],
    [[0, 0, 150], [1, 90, 130]],
    [[1, 130, 131], [0, 150, 298]],
    [[0, 298, 299], [1, 131, 132]],
    [[0, 299, 300], [1, 132, 140]],
]
"""(request, first token, end) of each step, decoding ones first."""
NOISE = 0.02
"""Relative; what bf16 leaves, seen up to 0.012."""


Answers = dict[str, list[dict[str, Any]]]
"""Answers of the child: without a fault ("right") and with each, by layer."""


def config() -> dict[str, Any]:
    small = tiny_v4_config(
        hidden_size=256,
        num_attention_heads=8,
        o_groups=2,
        o_lora_rank=64,
        q_lora_rank=128,
        index_topk=24,
        num_hidden_layers=3,
        compress_ratios=[0, 4, 128, 0],
        max_position_embeddings=1024,
        rope_scaling={**YARN, "original_max_position_embeddings": 64},
    )
    del small["quantization_config"]
    return small


def computed(lengths: list[int], steps: list[Any], faults: tuple[str, ...] = (), **variables: str) -> Answers:
    request = {"config": config(), "lengths": lengths, "steps": steps, "faults": faults}
    return answers_of(CHILD, release_folder(RELEASES[-1]), request, **variables)


@pytest.fixture(scope="module")
def answers(once: Once) -> Answers:
    return dict(once("numbers-deepseek_v4", lambda: computed(LENGTHS, STEPS, FAULTS)))


def test_every_token_of_every_kind_of_layer_is_transformers(answers: Answers) -> None:
    assert [layer["ratio"] for layer in answers["right"]] == [1, 4, 128]
    for layer in answers["right"]:
        assert len(layer["errors"]) == sum(LENGTHS)
        assert max(layer["errors"]) < NOISE, layer["ratio"]


def test_the_selection_is_the_best_there_is_up_to_rounding(answers: Answers) -> None:
    (selecting,) = [layer for layer in answers["right"] if layer["regrets"]]
    assert len(selecting["regrets"]) == sum(LENGTHS)
    assert max(selecting["regrets"]) < 0.15


@pytest.mark.parametrize("fault", ["sink", "position", "group"])
def test_a_planted_fault_of_the_attention_is_seen(answers: Answers, fault: str) -> None:
    (layer,) = answers[fault]
    assert max(layer["errors"]) > 5 * NOISE


def test_a_planted_wrong_selection_is_seen(answers: Answers) -> None:
    (layer,) = answers["selection"]
    assert max(layer["regrets"]) > 1


def test_the_kernels_themselves_take_what_vllm_hands_them() -> None:
    """The plugin's kernels, interpreted, on vLLM's own tensors: their checks of arguments, and what they compute."""
    steps = [[[1, 0, 10]], [[1, 10, 11], [0, 0, 138]], [[0, 138, 140], [1, 11, 13]]]
    layers = computed([140, 20], steps, DSA_DOCTOR_KERNELS="triton")["right"]
    assert [layer["ratio"] for layer in layers] == [1, 4, 128]
    for layer in layers:
        assert len(layer["errors"]) == 140 + 13
        assert max(layer["errors"]) < NOISE, layer["ratio"]
        assert max(layer["regrets"], default=0) < 0.15


def test_ranks_may_share_out_the_rows_of_a_prefill() -> None:
    """From 0.32 on vLLM's indexer gives each rank a slice of the prefilled rows, and gathers what they selected."""
    steps = [[[1, 0, 60]], [[0, 0, 150], [1, 60, 130]], [[1, 130, 131], [0, 150, 260]], [[0, 260, 261], [1, 131, 132]]]
    request = {"config": config(), "lengths": [261, 132], "steps": steps, "faults": (), "ranks": 3}
    found = answers_of(CHILD, release_folder(RELEASES[-1]), request)
    layer = found["shared out"]
    # The first step has no more groups than are selected, and the last no prefill: they ask no rank.
    assert [sum(slices) for slices in layer["slices"]] == [150 + 70, 110]
    assert all(min(slices) > 0 and len(slices) == 3 for slices in layer["slices"])
    assert len(layer["errors"]) == 261 + 132
    assert max(layer["errors"]) < NOISE
    assert max(layer["regrets"]) < 0.15
    assert max(found["swapped"]["regrets"]) > 1, "the slices did not matter"
