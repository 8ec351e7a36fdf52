"""Keys and tokens among the arguments of a launch: what is shown, written or copied to the terminal holds none."""

from collections.abc import Iterator, Sequence

OPTIONS = {"--api-key": "VLLM_API_KEY", "--hf-token": "HF_TOKEN"}
"""Options of `vllm serve` whose values are secret, and the environment variable that each can be given by instead."""
SHOWN = "***"
_SHORTEST = 6
"""Characters below which a value is not searched for in other text: masking every "a" would spoil it."""


def hidden(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return arguments as they may be shown."""
    return tuple(f"{head}{SHOWN}" if secret else head for head, secret in _split(arguments))


def left_out(arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the arguments without the secret options, and the variables that take their place."""
    kept, variables = [], []
    for head, secret in _split(arguments):
        name = _name(head)
        if name in OPTIONS:
            variables.append(OPTIONS[name])
        elif secret is None:
            kept.append(head)
    return tuple(kept), tuple(dict.fromkeys(variables))


def secrets_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the secret values among arguments."""
    return tuple(secret for _, secret in _split(arguments) if secret)


class Mask:
    """Replaces secrets in text and in a stream of bytes."""

    def __init__(self, secrets: Sequence[str | None]) -> None:
        """Take what is secret; None and what is too short to be told from ordinary text are passed over."""
        longest_first = sorted({one for one in secrets if one and len(one) >= _SHORTEST}, key=len, reverse=True)
        self._secrets = [one.encode() for one in longest_first]
        self._held = b""

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        return self._masked(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def feed(self, data: bytes) -> bytes:
        """Return the next bytes of a stream; the beginning of what may become a secret is held back."""
        data = self._masked(self._held + data)
        keep = max((self._begun(data, secret) for secret in self._secrets), default=0)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def rest(self) -> bytes:
        """Return what is held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held

    def _masked(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, SHOWN.encode())
        return data

    @staticmethod
    def _begun(data: bytes, secret: bytes) -> int:
        """Return how many bytes at the end of `data` are a beginning of `secret`."""
        return next(
            (size for size in range(min(len(data), len(secret) - 1), 0, -1) if secret.startswith(data[-size:])), 0
        )


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each argument as (what may be shown, the secret that follows it at once or None)."""
    inside = False
    for argument in arguments:
        if argument.startswith("-"):
            inside = _name(argument) in OPTIONS
            head, equals, value = argument.partition("=")
            yield (f"{head}=", value) if inside and equals else (argument, None)
        else:  # --api-key takes several
            yield ("", argument) if inside else (argument, None)


def _name(argument: str) -> str:
    """Return the name of an option with hyphens: vLLM takes underscores too."""
    return argument.partition("=")[0].replace("_", "-") if argument.startswith("--") else ""
