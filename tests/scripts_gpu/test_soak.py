"""The soak's verdict on samples, and its load against a server that only pretends."""

import asyncio
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guards import path_put_back

SCRIPTS = Path(__file__).parents[2] / "scripts" / "gpu"
MIB = 1 << 20


@pytest.fixture
def soak() -> Iterator[Any]:
    with path_put_back():
        sys.path.insert(0, str(SCRIPTS))
        yield importlib.import_module("soak")


def run_of(growth: float = 0.0, late: str = "", failed: int = 0, last_token: int = 2) -> tuple[Any, Any, Any]:
    """Return samples, worker lines and end of ten minutes in which memory grows by `growth` bytes a second."""
    samples = [
        {
            "time": at,
            "gpu_used": 5000 * MIB + growth * at,
            "host_rss": 3000 * MIB,
            "sent": 100,
            "completed": 90 - failed,
            "aborted": 10,
            "failed": failed,
            "errors": ["500: broken"] * failed,
            "metrics": {},
        }
        for at in range(0, 601, 10)
    ]
    compiled = ["dsa_kernels.a:kernel"]
    worker = [
        {"time": at, "torch_reserved": 900 * MIB, "compiled": compiled + [late] * (bool(late) and at > 300)}
        for at in range(-60, 601, 5)
    ]
    probe = {"tokens": [1, 2], "logprobs": [-1.0, -2.0]}
    other = {"tokens": [1, last_token], "logprobs": [-1.01, -2.0]}
    return samples, worker, {"load_start": 0, "load_end": 600, "probes": [probe, other]}


def failures(soak: Any, **changes: Any) -> list[str]:
    return [what for what, holds, _ in soak.verdict(*run_of(**changes)) if holds is False]


def test_a_steady_run_holds(soak: Any) -> None:
    assert failures(soak) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"growth": 0.1 * MIB}, "steady gpu_used"),
        ({"late": "dsa_kernels.indexer.logits:late"}, "nothing of ours compiled under load"),
        ({"failed": 1}, "no failed request"),
        ({"last_token": 7}, "the probe is answered as at the beginning"),
    ],
)
def test_each_aim_can_fail(soak: Any, changes: dict[str, Any], what: str) -> None:
    assert failures(soak, **changes) == [what]


def test_kernels_of_vllm_are_told_and_do_not_fail(soak: Any) -> None:
    judged = soak.verdict(*run_of(late="vllm.v1.sample:topk"))
    assert ("compiled by vLLM under load", None, "vllm.v1.sample:topk") in judged
    assert all(holds is not False for _, holds, _ in judged)


def test_a_run_cut_short_is_not_called_steady(soak: Any) -> None:
    samples, worker, end = run_of()
    judged = soak.verdict(samples[:5], worker[:5], end)
    assert [what for what, holds, _ in judged if holds is False][:3] == [f"steady {name}" for name in soak.TOLERANCES]


def test_the_load_counts_what_becomes_of_requests(soak: Any) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp import web

    load = importlib.import_module("soak_load")
    seen: list[dict[str, Any]] = []

    async def complete(request: Any) -> Any:
        body = await request.json()
        seen.append(body)
        if len(seen) == 3:
            return web.json_response({"error": "no"}, status=500)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: " + json.dumps({"choices": []}).encode() + b"\n\n")
        await asyncio.sleep(1.0)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def run() -> Any:
        app = web.Application()
        app.router.add_post("/v1/completions", complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        counts = load.Counts()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            load.ARRIVALS_PER_SECOND = 40.0
            await load.drive(session, 2.0, counts)
        await runner.cleanup()
        return counts

    counts = asyncio.run(run())
    assert counts.failed == 1
    assert "500" in counts.errors[0]
    assert counts.completed > 20
    assert counts.aborted > 0
    assert counts.sent == counts.completed + counts.aborted + counts.failed == len(seen)
    lengths = [len(body["prompt"]) for body in seen]
    assert min(lengths) < 512 < max(lengths)
    assert all(len(body["prompt"]) + body["max_tokens"] < load.MAX_MODEL_LEN for body in seen)
