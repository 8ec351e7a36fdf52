"""DSA_DOCTOR_PLUGIN: whether the plugin acts by itself, always or never."""

import os

MODE_VARIABLE = "DSA_DOCTOR_PLUGIN"
MODES = ("auto", "off", "force")


def plugin_mode() -> str:
    """Return the mode that DSA_DOCTOR_PLUGIN asks for; auto where it is unset.

    Raises:
        ValueError: the variable holds something else.
    """
    mode = os.environ.get(MODE_VARIABLE, "").strip().lower() or "auto"
    if mode not in MODES:
        raise ValueError(f"{MODE_VARIABLE}={mode!r} is not known. Accepted: {', '.join(MODES)}.")
    return mode
