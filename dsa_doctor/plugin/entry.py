"""The entry point: decides, applies everything or nothing, and never takes vLLM down with it."""

import logging

from dsa_doctor.plugin.invariance import batch_invariant
from dsa_doctor.plugin.log import LOGGER
from dsa_doctor.plugin.mode import MODE_VARIABLE, plugin_mode
from dsa_doctor.plugin.state import STATE


def register() -> None:
    """Called by vLLM in each of its processes, possibly several times. Initialises no CUDA.

    Where the plugin was not asked for by name, a failure of its own leaves vLLM untouched and is logged.

    Raises:
        Exception: DSA_DOCTOR_PLUGIN=force was given and the plugin cannot serve, or its value is not known.
        ValueError: the value of DSA_DOCTOR_BATCH_INVARIANT is not known.
    """
    if STATE.registered:
        return
    STATE.registered = True
    mode = plugin_mode()
    if mode == "off":
        return
    batch_invariant()
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
