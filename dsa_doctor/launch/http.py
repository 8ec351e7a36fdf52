"""Questions to the running server: is it healthy, what does it serve, does it answer with sense."""

import json
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import Any

SMOKE_PROMPT = "The capital of France is"
_SMOKE_TOKENS = 16
_MOST = 1 << 20
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without proxies: the server is on this machine, or on an address that the user gave."""


@dataclass(frozen=True)
class Answer:
    """The answer to the smoke prompt.

    Attributes:
        text: what the model wrote; empty where there was no answer.
        problem: why it is not sane, in one sentence; None where it is.
        answered: whether there was an answer at all.
    """

    text: str
    problem: str | None
    answered: bool


def base_url(host: str | None, port: int) -> str:
    """Return the address under which this machine reaches a server bound to `host`."""
    reachable = "127.0.0.1" if host in {None, "", "0.0.0.0", "::"} else str(host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def is_healthy(url: str, *, timeout: float = 2.0) -> bool:
    """Whether GET /health answers 200."""
    try:
        with _OPENER.open(f"{url}/health", timeout=timeout) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError):
        return False


def smoke(url: str, *, timeout: float, api_key: str | None = None) -> Answer:
    """Ask the first served model to complete one sentence, greedily, and judge the answer."""
    try:
        listing = _ask(f"{url}/v1/models", None, timeout, api_key)
        model = listing["data"][0]["id"]
        request = {"model": model, "prompt": SMOKE_PROMPT, "max_tokens": _SMOKE_TOKENS, "temperature": 0}
        text = _ask(f"{url}/v1/completions", request, timeout, api_key)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        detail = error.read(2000).decode("utf-8", "replace").strip()
        return Answer("", f"the server answered HTTP {error.code} to the smoke prompt: {detail[:300]}", answered=False)
    except (OSError, ValueError) as error:
        return Answer("", f"no answer to the smoke prompt within {timeout:.0f} s ({error})", answered=False)
    except (KeyError, IndexError, TypeError):
        return Answer("", "the server's answer to the smoke prompt has no text in it", answered=False)
    if not isinstance(text, str):
        return Answer("", "the server's answer to the smoke prompt has no text in it", answered=False)
    return Answer(text, what_is_wrong(text), answered=True)


def what_is_wrong(text: str) -> str | None:
    """Return why an answer is not sane, or None. It judges form alone: a wrong capital passes."""
    bare = "".join(text.split())
    if not bare:
        return "the answer is empty"
    unreadable = sum(1 for character in bare if character == "\ufffd" or not character.isprintable())
    if unreadable > len(bare) / 3:
        return "the answer is mostly unreadable characters"
    if len(bare) >= 8 and Counter(bare).most_common(1)[0][1] > 0.8 * len(bare):
        return "the answer repeats one character"
    words = text.split()
    if len(words) >= 6 and Counter(words).most_common(1)[0][1] > 0.8 * len(words):
        return "the answer repeats one word"
    return None


def _ask(url: str, body: dict[str, Any] | None, timeout: float, api_key: str | None) -> Any:
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    data = json.dumps(body).encode() if body is not None else None
    with _OPENER.open(urllib.request.Request(url, data=data, headers=headers), timeout=timeout) as reply:  # noqa: S310 - http to the server
        return json.loads(reply.read(_MOST))
