"""A real vLLM server, the plugin's backend and indexer in the loop, against transformers' own model.

Covered: vLLM's API server and engine processes, scheduler, paged caches and their block tables, model runner, generic
model class, attention layer with both prefill paths, index buffer; the plugin's backend, metadata builder, indexer
stand-ins and patches, on the references. Not covered: the Triton kernels, vLLM's CUDA ops, CUDA graphs, the CUDA
platform's selector (contract tests) and anything of compute capability 8.x itself.
"""

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cpu_environment import cpu_python
from tests.e2e.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]

ORACLE = Path(__file__).with_name("oracle.py")
MAX_TOKENS = 5
TOLERANCE = 5e-4
"""fp32 on both sides, summed in another order: agreement is 1e-5 on most tokens."""

# 96 tokens a step: every prompt longer than that is prefilled in chunks. 9 usable pages of 64 tokens: three requests of
# 190 tokens fill them, and the next token of each needs one more.
OPTIONS = ("--max-num-batched-tokens", "96", "--max-num-seqs", "4", "--num-gpu-blocks-override", "10")


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(3, 128), k=length)


LONG = prompt(200, 0)
UNEVEN = [LONG, prompt(20, 1), prompt(131, 2)]
CROWD = [prompt(190, seed) for seed in (3, 4, 5)]


@pytest.fixture(scope="module")
def python() -> Path:
    return cpu_python()


@pytest.fixture(scope="module")
def checkpoint(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    subprocess.run([str(python), str(ORACLE), "make", str(folder)], check=True, capture_output=True)
    return folder


def ask_oracle(python: Path, checkpoint: Path, **request: Any) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(python), str(ORACLE), "answer", str(checkpoint)],
        input=json.dumps({"max_tokens": MAX_TOKENS, **request}),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def expected(python: Path, checkpoint: Path) -> list[dict[str, Any]]:
    answers = ask_oracle(python, checkpoint, prompts=[*UNEVEN, *CROWD])
    # A near tie between the two best tokens would make greedy decoding a coin toss.
    assert min(answer["margin"] for answer in answers) > 10 * TOLERANCE
    return answers


@pytest.fixture(scope="module")
def server(python: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    with Server(python, checkpoint, log, *OPTIONS) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture(scope="module")
def wrong_server(python: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("wrong") / "server.log"
    with Server(python, checkpoint, log, *OPTIONS, DSA_E2E_WRONG_SELECTION="1") as started:
        started.wait_until_ready()
        yield started


def assert_agree(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [answer["tokens"] for answer in answers] == [answer["tokens"] for answer in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["logprobs"] == pytest.approx(wanted["logprobs"], abs=TOLERANCE)


def test_one_request_beyond_index_topk(server: Server, expected: list[dict[str, Any]]) -> None:
    assert_agree(server.complete([LONG], MAX_TOKENS), expected[:1])


def test_prefix_cache_hit(server: Server, expected: list[dict[str, Any]]) -> None:
    hits = server.metric("vllm:prefix_cache_hits_total")
    assert_agree(server.complete([LONG], MAX_TOKENS), expected[:1])
    server.wait_for_metric("vllm:prefix_cache_hits_total", hits + 128)


def test_uneven_requests_at_once(server: Server, expected: list[dict[str, Any]]) -> None:
    assert_agree(server.complete(UNEVEN, MAX_TOKENS), expected[: len(UNEVEN)])


def test_preemption(server: Server, expected: list[dict[str, Any]]) -> None:
    assert_agree(server.complete(CROWD, MAX_TOKENS), expected[len(UNEVEN) :])
    server.wait_for_metric("vllm:num_preemptions_total", 1)


def test_the_references_serve_and_say_so(server: Server) -> None:
    assert "the PyTorch references serve sparse MLA and the indexer (the device is a CPU)" in server.text()
    assert "TRITON_MLA_SPARSE" in server.text()


def test_another_selection_breaks_the_comparison(wrong_server: Server, expected: list[dict[str, Any]]) -> None:
    short, long = wrong_server.complete([UNEVEN[1], LONG], MAX_TOKENS)
    # Below index_topk everything is selected, so nothing can differ; beyond, another selection must show.
    assert_agree([short], expected[1:2])
    assert long["logprobs"] != pytest.approx(expected[0]["logprobs"], abs=100 * TOLERANCE)


def test_unrounded_indexer_bounds_what_quantisation_does(
    python: Path, checkpoint: Path, expected: list[dict[str, Any]]
) -> None:
    """fp8 storage alone moves the selection a little: that is what the oracle's rounding accounts for."""
    exact = ask_oracle(python, checkpoint, prompts=[LONG, UNEVEN[1]], rounded=False)
    assert exact[1]["logprobs"] == pytest.approx(expected[1]["logprobs"], abs=TOLERANCE)
    first = abs(exact[0]["logprobs"][0] - expected[0]["logprobs"][0])
    assert TOLERANCE < first < 0.5
