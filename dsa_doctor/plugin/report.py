"""The block that the server logs at start: each layer, its state, the backend and the fallbacks chosen."""

from typing import Any

from dsa_doctor.plugin.activation import BACKEND_NAME
from dsa_doctor.plugin.entry import say

_logged: list[str] = []


def log_once(vllm_config: Any) -> None:
    """Log the block for the server's model; a draft model's configuration adds nothing to it."""
    name = str(vllm_config.model_config.model)
    if _logged:
        return
    _logged.append(name)
    say("dsa-doctor: %s will serve %s.", BACKEND_NAME, name)
