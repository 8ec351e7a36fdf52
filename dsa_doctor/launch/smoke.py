"""Questions to the running server: is it healthy, what does it serve, does it answer with sense."""

import http.client
import json
import ssl
from collections import Counter
from dataclasses import dataclass
from typing import Any

from dsa_doctor.launch.endpoint import Endpoint

SMOKE_PROMPT = "The capital of France is"
_SMOKE_TOKENS = 16
_REFUSALS = {401, 403, 404, 405, 429}
"""The server works and does not let this question in; that says nothing of the model."""
_SHOWN = 200


@dataclass(frozen=True)
class Answer:
    """The answer to the smoke prompt.

    Attributes:
        text: what the model wrote; empty where there was no answer.
        problem: why it is not sane, in one sentence; None where it is.
        answered: whether there was an answer at all.
        refused: whether the server works and refused the question: nothing is known of the model then.
    """

    text: str
    problem: str | None
    answered: bool
    refused: bool = False


class _NoAnswerError(Exception):
    """There is nothing to judge; the message says what came."""

    def __init__(self, problem: str, *, refused: bool = False) -> None:
        super().__init__(problem)
        self.refused = refused


def is_healthy(endpoint: Endpoint, *, timeout: float = 2.0) -> bool:
    """Whether GET /health answers 200."""
    try:
        return endpoint.ask("GET", "/health", None, timeout=timeout).status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def smoke(endpoint: Endpoint, *, timeout: float) -> Answer:
    """Ask the first served model to complete one sentence, greedily, and judge the answer."""
    try:
        listing = _ask(endpoint, "/v1/models", None, timeout)
        model = _at(listing, "data", 0, "id")
        request = {"model": model, "prompt": SMOKE_PROMPT, "max_tokens": _SMOKE_TOKENS, "temperature": 0}
        text = _at(_ask(endpoint, "/v1/completions", request, timeout), "choices", 0, "text")
    except _NoAnswerError as error:
        return Answer("", str(error), answered=False, refused=error.refused)
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


def _ask(endpoint: Endpoint, path: str, body: dict[str, Any] | None, timeout: float) -> Any:
    """Return the JSON that a path answers with.

    Raises:
        _NoAnswerError: it answers with anything else, or not at all.
    """
    data = None if body is None else json.dumps(body).encode()
    asked = f"{'GET' if body is None else 'POST'} {path}"
    try:
        reply = endpoint.ask("GET" if body is None else "POST", path, data, timeout=timeout)
    except TimeoutError:
        raise _NoAnswerError(f"no answer to the smoke prompt within {timeout:.0f} s ({asked})") from None
    except http.client.IncompleteRead as error:
        raise _NoAnswerError(f"the answer to {asked} breaks off after {len(error.partial):,} bytes") from None
    except http.client.RemoteDisconnected:
        raise _NoAnswerError(f"the server closed the connection without an answer to {asked}") from None
    except http.client.BadStatusLine as error:
        raise _NoAnswerError(f"what answers {asked} does not speak HTTP: {_shown(str(error))}") from None
    except http.client.HTTPException as error:
        raise _NoAnswerError(f"the answer to {asked} is no valid HTTP ({type(error).__name__})") from None
    except ssl.SSLError as error:
        raise _NoAnswerError(f"TLS with the server failed at {asked}: {error.reason or error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _NoAnswerError(f"the connection for {asked} failed: {reason}") from None
    if reply.status != 200:
        raise _NoAnswerError(_refusal(endpoint, reply.status, reply.content), refused=reply.status in _REFUSALS)
    if reply.cut:
        raise _NoAnswerError(f"the answer to {asked} is longer than 1 MiB")
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError):
        raise _NoAnswerError(f"the answer to {asked} is not JSON: {_shown(reply.content)}") from None


def _refusal(endpoint: Endpoint, status: int, content: bytes) -> str:
    said = f"the server answered HTTP {status} to the smoke prompt: {_shown(content)}"
    if status in {401, 403}:
        key = "with the key that it was started with" if endpoint.api_key else "without a key, because none is known"
        return f"{said}; it was asked {key}. Nothing is known of the model's answers. The server is left as it is."
    if status in _REFUSALS:
        return f"{said}. Nothing is known of the model's answers. The server is left as it is."
    return said


def _at(content: Any, *path: str | int) -> str:
    """Return the text at a path of an answer.

    Raises:
        _NoAnswerError: there is none.
    """
    found = content
    for step in path:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            found = None
    if not isinstance(found, str):
        shown = _shown(json.dumps(content))
        raise _NoAnswerError(f"the server's answer to the smoke prompt has no text in it: {shown}")
    return found


def _shown(content: bytes | str) -> str:
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    return repr(" ".join(text.split())[:_SHOWN])
