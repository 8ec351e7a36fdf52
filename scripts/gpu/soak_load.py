"""The mixed load of soak.py: requests of every length, at random times, some sharing prefixes, some given up midway."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import tiny

MODEL = "tiny"
LENGTHS = ((10, 60), (100, 500), (520, 1500), (2000, 3700))
"""Ranges of prompt lengths, two on either side of index_topk."""
MAX_MODEL_LEN = 4096
ABORTED, SHARED, SAMPLED = 0.1, 0.3, 0.3
"""Shares of the requests that are given up, that begin with a common prefix, and that are sampled, not greedy."""
PREFIX_LENGTH, PREFIXES = 1024, 4
ARRIVALS_PER_SECOND = 8.0
MOST_AT_ONCE = 64
PROBE_LENGTH, PROBE_TOKENS = 900, 24


@dataclass
class Counts:
    """What became of the requests so far."""

    sent: int = 0
    completed: int = 0
    aborted: int = 0
    failed: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)


def request(chosen: random.Random) -> tuple[dict[str, Any], float | None]:
    """Return the body of a request and after how many seconds it is given up (None: never)."""
    length = chosen.randint(*chosen.choice(LENGTHS))
    prompt = words(chosen.randrange(1 << 30), length)
    if chosen.random() < SHARED:
        prompt = (words(chosen.randrange(PREFIXES), PREFIX_LENGTH) + prompt)[: MAX_MODEL_LEN - 300]
    most = chosen.choice((chosen.randint(1, 16), chosen.randint(64, 250)))
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": min(most, MAX_MODEL_LEN - len(prompt) - 8),
        "ignore_eos": True,
        "stream": True,
        "temperature": 0.0,
    }
    if chosen.random() < SAMPLED:
        body |= {"temperature": 1.0, "top_p": 0.9, "seed": chosen.randrange(1 << 30)}
    return body, chosen.uniform(0.02, 1.5) if chosen.random() < ABORTED else None


def words(seed: int, length: int) -> list[int]:
    """Return `length` token ids that depend on the seed alone."""
    return random.Random(seed).choices(range(3, tiny.VOCABULARY - 8), k=length)


async def send(session: aiohttp.ClientSession, body: dict[str, Any], patience: float | None, counts: Counts) -> None:
    """Send one request, and count what became of it."""
    counts.sent += 1
    try:
        async with asyncio.timeout(patience if patience is not None else 120):
            async with session.post("/v1/completions", json=body) as response:
                if response.status != 200:
                    raise RuntimeError(f"{response.status}: {(await response.text())[:200]}")
                pieces = 0
                async for line in response.content:
                    pieces += line.startswith(b"data: {")
                    if b'"error"' in line[:40]:
                        raise RuntimeError(line.decode(errors="replace")[:200])
        counts.completed += 1
        counts.tokens += body["max_tokens"]
        if not pieces:
            raise RuntimeError("the answer held no token")
    except TimeoutError:
        if patience is not None:
            counts.aborted += 1
        else:
            _failed(counts, "no answer within 120 s")
    except Exception as error:
        _failed(counts, f"{type(error).__name__}: {error}")


def _failed(counts: Counts, why: str) -> None:
    counts.failed += 1
    if len(counts.errors) < 20:
        counts.errors.append(why)


async def drive(session: aiohttp.ClientSession, seconds: float, counts: Counts) -> None:
    """Send requests until the time is over, then wait for those under way."""
    chosen, tasks, end = random.Random(0), set(), time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(chosen.expovariate(ARRIVALS_PER_SECOND))
        if len(tasks) < MOST_AT_ONCE:
            task = asyncio.create_task(send(session, *request(chosen), counts))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def probe(session: aiohttp.ClientSession) -> dict[str, list[float]]:
    """Return the greedy tokens of the fixed probe prompt, and their log-probabilities."""
    body = {
        "model": MODEL,
        "prompt": words(12345, PROBE_LENGTH),
        "max_tokens": PROBE_TOKENS,
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
        "return_tokens_as_token_ids": True,
    }
    async with session.post("/v1/completions", json=body) as response:
        response.raise_for_status()
        found = (await response.json())["choices"][0]["logprobs"]
    tokens = [int(token.removeprefix("token_id:")) for token in found["tokens"]]
    return {"tokens": tokens, "logprobs": found["token_logprobs"]}
