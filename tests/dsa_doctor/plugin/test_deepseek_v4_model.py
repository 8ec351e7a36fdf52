"""A whole DeepSeek-V4 under the plugin beside transformers', logit by logit, served by vLLM's scheduler on the CPU.

Every kind of layer: two of the window alone, C4A, C128A; the first routed by token; MXFP4 experts in a checkpoint of
fp8 blocks; one MTP stage that drafts. Prompts come in chunks, two at once; the third text finds 256 tokens in the
prefix cache, more than twice the rows that are selected and two groups of 128; drafts are taken and refused.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.dsa_doctor.plugin import deepseek_v4_checkpoint, deepseek_v4_model_child, layer_child
from tests.dsa_doctor.plugin.tiny_models import YARN, tiny_v4_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

BUDGET = 192
"""Tokens of a step."""
NOISE = 0.02
"""Relative; what bf16 leaves in four layers, seen up to 0.014."""
TOPK = 24
WAVES: dict[str, list[dict[str, int]]] = {
    "none": [{"first": 300, "other": 140}, {"alike": 310}],
    **{fault: [{"short": 140}] for fault in ("selection", "sink", "position", "product")},
    "state": [{"long": 262}, {"again": 320}],
}
"""Prompts that are sent together, by planted fault."""

Answers = dict[str, dict[str, Any]]


def config() -> dict[str, Any]:
    return tiny_v4_config(
        hidden_size=256,
        num_attention_heads=8,
        o_groups=2,
        o_lora_rank=128,
        q_lora_rank=128,
        index_topk=TOPK,
        compress_ratios=[0, 0, 4, 128, 0],
        vocab_size=256,
        moe_intermediate_size=128,
        max_position_embeddings=1024,
        rope_scaling={**YARN, "original_max_position_embeddings": 64},
    )


def texts() -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(5)
    first, other, ending, short = (
        torch.randint(0, 256, (length,), generator=generator).tolist() for length in (308, 150, 30, 143)
    )
    return {
        "first": first,
        "other": other,
        "alike": [*first[:290], *ending[:25]],
        "short": short,
        "long": first[:265],
        "again": [*first[:258], *other[:65]],
    }


def computed(folder: Path) -> Answers:
    deepseek_v4_checkpoint.write(folder, config())
    request = {"folder": str(folder), "budget": BUDGET, "texts": texts(), "waves": WAVES}
    return layer_child.answers_of(
        deepseek_v4_model_child.__name__, release_folder(RELEASES[-1]), request, **deepseek_v4_model_child.VARIABLES
    )


@pytest.fixture(scope="module")
def answers(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return dict(once("v4-model", lambda: computed(tmp_path_factory.mktemp("deepseek-v4"))))


def test_every_logit_is_transformers(answers: Answers) -> None:
    found = answers["none"]["texts"]
    assert {name: len(one["logits"]) for name, one in found.items()} == {"first": 306, "other": 148, "alike": 57}
    for name, one in found.items():
        assert max(one["logits"]) < NOISE, name


def test_every_logit_of_the_draft_is_that_of_transformers_layers(answers: Answers) -> None:
    for name, one in answers["none"]["texts"].items():
        assert len(one["drafted"]) == len(one["logits"])
        assert max(one["drafted"]) < NOISE, name


def test_what_is_chosen_is_the_best_there_is_up_to_rounding(answers: Answers) -> None:
    for name, one in answers["none"]["texts"].items():
        assert one["rows"] < 0.3, name  # of the spread of the scores
        assert one["experts"] < 0.05, name  # of scores of about one


def test_the_steps_are_those_that_are_to_be_tested(answers: Answers) -> None:
    """Chunks, requests at once, drafts refused (a position that comes again), and tokens found in the prefix cache."""
    steps = answers["none"]["steps"]
    assert steps[0] == [["first", 0, BUDGET]]
    assert any(len(step) == 2 and {end - first > 2 for _, first, end in step} == {True, False} for step in steps)
    ends = [(name, first, end) for step in steps for name, first, end in step]
    assert any(a[0] == b[0] and b[1] == a[2] - 1 for a, b in zip(ends, ends[2:], strict=False))
    assert answers["none"]["texts"]["alike"]["first"] == 256
    assert min(TOPK * 2 * 4, 128 * 2) < 256


@pytest.mark.parametrize("fault", ["sink", "position", "product"])
def test_a_planted_fault_is_seen_in_the_logits(answers: Answers, fault: str) -> None:
    assert max(answers[fault]["texts"]["short"]["logits"]) > 3 * NOISE


def test_a_planted_wrong_selection_is_seen(answers: Answers) -> None:
    assert answers["selection"]["texts"]["short"]["rows"] > 1


def test_a_compressor_that_lost_its_state_is_seen_after_a_hit_in_the_prefix_cache(answers: Answers) -> None:
    found = answers["state"]["texts"]
    assert found["again"]["first"] == 256
    assert max(found["long"]["logits"]) < NOISE  # computed before
    assert max(found["again"]["logits"]) > NOISE  # one row of 24 that are selected, of those tokens that select it
    assert found["again"]["rows"] > 1  # its index key as well
