"""A real vLLM server, the plugin's backend and indexer in the loop, against transformers' own model.

Covered: vLLM's API server and engine processes, scheduler, paged caches and their block tables, model runner, generic
model class, attention layer with both prefill paths, index buffer; the plugin's backend, metadata builder, indexer
stand-ins and patches, on the references. Not covered: the Triton kernels, vLLM's CUDA ops, CUDA graphs, the CUDA
platform's selector (contract tests) and anything of compute capability 8.x itself.
"""

import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ORACLE
from tests.e2e.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

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
def servers(
    python: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """Two servers that are starting: the one under test, and one whose selection is replaced by another."""
    logs = [tmp_path_factory.mktemp(name) / "server.log" for name in ("server", "wrong")]
    with (
        Server(python, checkpoint, logs[0], *OPTIONS) as right,
        Server(python, checkpoint, logs[1], *OPTIONS, DSA_E2E_WRONG_SELECTION="1") as wrong,
    ):
        yield right, wrong


@pytest.fixture(scope="module")
def answers(python: Path, checkpoint: Path, servers: object) -> dict[str, list[dict[str, Any]]]:
    """The oracle's answers, computed while the servers start."""
    request = {"max_tokens": MAX_TOKENS, "rounded": [*UNEVEN, *CROWD], "unrounded": [LONG, UNEVEN[1]]}
    done = subprocess.run(
        [str(python), str(ORACLE), "answer", str(checkpoint)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def expected(answers: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    # A near tie between the two best tokens would make greedy decoding a coin toss.
    assert min(answer["margin"] for answer in answers["rounded"]) > 10 * TOLERANCE
    return answers["rounded"]


@pytest.fixture(scope="module")
def server(servers: tuple[Server, Server], expected: object) -> Server:
    servers[0].wait_until_ready()
    return servers[0]


@pytest.fixture(scope="module")
def wrong_server(servers: tuple[Server, Server], expected: object) -> Server:
    servers[1].wait_until_ready()
    return servers[1]


def assert_agree(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [answer["tokens"] for answer in answers] == [answer["tokens"] for answer in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["logprobs"] == pytest.approx(wanted["logprobs"], abs=TOLERANCE)


def test_server_agrees_with_transformers(
    server: Server,
    wrong_server: Server,
    expected: list[dict[str, Any]],
    answers: dict[str, list[dict[str, Any]]],
    subtests: pytest.Subtests,
) -> None:
    """One test, so that parallel test processes do not each start the servers."""
    with subtests.test("one request beyond index_topk, prefilled in chunks"):
        assert_agree(server.complete([LONG], MAX_TOKENS), expected[:1])

    with subtests.test("a prefix-cache hit"):
        hits = server.metric("vllm:prefix_cache_hits_total")
        assert_agree(server.complete([LONG], MAX_TOKENS), expected[:1])
        server.wait_for_metric("vllm:prefix_cache_hits_total", hits + 128)

    with subtests.test("uneven requests at once"):
        assert_agree(server.complete(UNEVEN, MAX_TOKENS), expected[: len(UNEVEN)])

    with subtests.test("preemption"):
        for _ in range(10):  # on a busy machine the requests may come one after the other
            assert_agree(server.complete(CROWD, MAX_TOKENS), expected[len(UNEVEN) :])
            time.sleep(1)  # the server publishes its counters some time after it answers
            if server.metric("vllm:num_preemptions_total"):
                break
        server.wait_for_metric("vllm:num_preemptions_total", 1)

    with subtests.test("the references serve, and say so"):
        assert "the PyTorch references serve sparse MLA and the indexer (the device is a CPU)" in server.text()

    with subtests.test("another selection breaks the comparison"):
        short, long = wrong_server.complete([UNEVEN[1], LONG], MAX_TOKENS)
        # Below index_topk everything is selected, so nothing can differ; beyond, another selection must show.
        assert_agree([short], expected[1:2])
        assert long["logprobs"] != pytest.approx(expected[0]["logprobs"], abs=100 * TOLERANCE)

    with subtests.test("rounding is what separates the oracle from transformers"):
        long, short = answers["unrounded"]
        assert short["logprobs"] == pytest.approx(answers["rounded"][1]["logprobs"], abs=TOLERANCE)
        assert long["logprobs"] != pytest.approx(answers["rounded"][0]["logprobs"], abs=TOLERANCE)
