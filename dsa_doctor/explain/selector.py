"""Reads the error of vLLM's attention-backend selector, in the wordings of its releases."""

import re
from dataclasses import dataclass

from dsa_doctor.verdict.schema import Backend

_SETTING = re.compile(r"\b(head_size|dtype|kv_cache_dtype|block_size|use_mla|use_sparse)\s?[=:]\s?([\w.]{1,40})")
_BACKEND = re.compile(r"['\"]?\b([A-Z][A-Z0-9_]{2,63})['\"]?\s?(?::|->)\s?\[([^\]\[]{0,2000})\]")
_NEVER = re.compile(
    r"sparse not supported|capability|head_size|MLA not supported|non-|not a sparse|kv_cache_dtype|block_size|dtype not"
)
_CLOSING = re.compile(r"\]\s?\}")


@dataclass(frozen=True)
class SelectorError:
    """What the selector was asked and what it answered.

    Attributes:
        settings: the configuration by name, as text.
        backends: every rejected candidate, in the selector's order.
    """

    settings: dict[str, str]
    backends: tuple[Backend, ...]

    @property
    def use_sparse(self) -> bool | None:
        """Whether sparse attention was asked for; None where the text does not tell."""
        if "use_sparse" in self.settings:
            return self.settings["use_sparse"].startswith("True")
        reasons = {reason for backend in self.backends for reason in backend.reasons}
        if "sparse not supported" in reasons:
            return True
        return False if "non-sparse not supported" in reasons else None

    @property
    def nearest(self) -> Backend | None:
        """The backend that can do sparse attention on this GPU and lacks only something that can be installed."""
        near = [
            one for one in self.backends if one.reasons and not any(_NEVER.search(reason) for reason in one.reasons)
        ]
        return min(near, key=lambda one: len(one.reasons), default=None)

    @property
    def only_cache_dtype(self) -> tuple[str, ...]:
        """Backends that the KV cache dtype alone rules out."""
        return tuple(
            one.name
            for one in self.backends
            if one.reasons and all("kv_cache_dtype" in reason for reason in one.reasons)
        )


def parse(text: str) -> SelectorError:
    """Parse the message, wrapped or not, cut short or not; `text` may go on behind it."""
    reasons_at = text.find("Reasons")
    head = text[: reasons_at if reasons_at >= 0 else 1200]
    settings: dict[str, str] = {}
    for name, value in _SETTING.findall(head):
        settings.setdefault(name, value.removeprefix("torch."))
    backends: list[Backend] = []
    if reasons_at >= 0:
        body = text[reasons_at:]
        closing = _CLOSING.search(body)
        body = body[: closing.end()] if closing else body
        seen: set[str] = set()
        for name, listed in _BACKEND.findall(body):
            if name not in seen:
                seen.add(name)
                backends.append(Backend(name=name, accepted=False, reasons=split_reasons(listed)))
    return SelectorError(settings, tuple(backends))


def split_reasons(listed: str) -> tuple[str, ...]:
    """Split "a, b, c" into reasons; FlashMLA's own sentence holds a comma."""
    reasons: list[str] = []
    for piece in (part.strip().strip("'\"").strip() for part in listed.split(", ")):
        if reasons and piece.startswith(("likely", "or ", "which ")):
            reasons[-1] += f", {piece}"
        elif piece:
            reasons.append(piece)
    return tuple(reasons)
