"""The entry point: decides, applies everything or nothing, and never takes vLLM down with it."""

import logging
import multiprocessing
import os

LOGGER = logging.getLogger("vllm.dsa_doctor")
"""A child of vLLM's logger, so that the plugin's lines appear where and as vLLM's do."""

MODE_VARIABLE = "DSA_DOCTOR_PLUGIN"
MODES = ("auto", "off", "force")

_state: dict[str, bool] = {}


def plugin_mode() -> str:
    """Return the mode that DSA_DOCTOR_PLUGIN asks for; auto where it is unset.

    Raises:
        ValueError: the variable holds something else.
    """
    mode = os.environ.get(MODE_VARIABLE, "").strip().lower() or "auto"
    if mode not in MODES:
        raise ValueError(f"{MODE_VARIABLE}={mode!r} is not known. Accepted: {', '.join(MODES)}.")
    return mode


def register() -> None:
    """Called by vLLM in each of its processes, possibly several times. Initialises no CUDA.

    Where the plugin was not asked for by name, a failure of its own leaves vLLM untouched and is logged.

    Raises:
        Exception: DSA_DOCTOR_PLUGIN=force was given and the plugin cannot serve, or its value is not known.
    """
    if _state.get("registered"):
        return
    _state["registered"] = True
    mode = plugin_mode()
    if mode == "off":
        return
    try:
        from dsa_doctor.plugin.activation import activate

        activate(mode)
    except Exception as error:
        if mode == "force":
            raise
        LOGGER.error(
            "dsa-doctor's plugin failed and changed nothing (%s: %s). vLLM continues without it; "
            "%s=off silences this, `dsa-doctor check` says what this vLLM can do by itself.",
            type(error).__name__,
            error,
            MODE_VARIABLE,
            exc_info=LOGGER.isEnabledFor(logging.DEBUG),
        )


def say(message: str, *arguments: object, level: int = logging.INFO) -> None:
    """Log in the first process of the server alone: its children would repeat every line."""
    first = multiprocessing.parent_process() is None
    LOGGER.log(level if first else logging.DEBUG, message, *arguments)
