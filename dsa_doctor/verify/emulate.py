"""`--emulate`: what a run of the kernels is told, so that they are compiled as for an older GPU."""

from __future__ import annotations

import os

from dsa_doctor.catalog.targets import target_from_text


class EmulationRefusedError(ValueError):
    """The target cannot be emulated; the message names what came and what is accepted."""


def set_emulation(text: str) -> None:
    """Have every process of this run compile for a target, by the variable that `dsa_kernels` reads at its import.

    Args:
        text: as for --target: a100, sm80, 8.6, ...

    Raises:
        EmulationRefusedError: a target that is not known to the kernels, or TRITON_OVERRIDE_ARCH names another.
    """
    from dsa_kernels.emulation import VARIABLE
    from dsa_kernels.targets import parse_target

    try:
        capability = target_from_text(text).capability
    except ValueError as error:
        raise EmulationRefusedError(str(error).replace("--target", "--emulate")) from None
    try:
        target = parse_target(str(capability))
    except ValueError as error:
        raise EmulationRefusedError(f"--emulate {text}: the kernels are not made for it. {error}") from None
    override = os.environ.get("TRITON_OVERRIDE_ARCH", "")
    if override and override != f"sm{target}":
        raise EmulationRefusedError(
            f"--emulate {text}: TRITON_OVERRIDE_ARCH is {override!r}, which asks for another target. Unset it."
        )
    os.environ[VARIABLE] = f"sm{target}"
