"""The vLLM releases that the ledgers were verified against. A new one is one more entry of `VERIFIED`.

No judgement reads them: on a user's machine the ledgers' look-ups decide. They say what the tests fetch, what the
documentation names, and which image the emitted manifests start from.
"""

VERIFIED = ("0.26.0", "0.28.0", "0.30.0", "0.32.0", "0.33.0")
"""From old to new."""


def newest() -> str:
    """Return the newest verified release."""
    return VERIFIED[-1]


def since(release: str) -> tuple[str, ...]:
    """Return the verified releases from `release` on."""
    return VERIFIED[VERIFIED.index(release) :]


def before(release: str) -> tuple[str, ...]:
    """Return the verified releases that are older than `release`."""
    return VERIFIED[: VERIFIED.index(release)]


def image() -> str:
    """Return vLLM's own container image of the newest verified release."""
    return f"vllm/vllm-openai:v{newest()}"
