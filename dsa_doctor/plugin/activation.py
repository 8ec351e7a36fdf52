"""Gathers the gate's facts without touching CUDA, asks the resolver, and applies or stands down."""

import logging

from dsa_doctor.catalog.capability import plugin_serves
from dsa_doctor.plugin.host import device_capability
from dsa_doctor.plugin.log import say


def activate(mode: str) -> None:
    """Apply the plugin in this process if the resolver's gate says so; otherwise change nothing.

    Args:
        mode: auto or force.

    Raises:
        RuntimeError: mode is force and the plugin cannot serve; the message holds the gate's reason and evidence.
    """
    capability = device_capability(mode)
    if capability is None:
        return
    if mode == "auto" and plugin_serves(capability) == "on request":
        from dsa_doctor.plugin import on_request

        on_request.wait(capability)
        return
    if mode == "auto" and plugin_serves(capability) != "default":
        return
    from dsa_doctor.plugin import gate

    decision = gate.decide(capability, mode)
    if decision.serves:
        from dsa_doctor.plugin import selection

        selection.install(forced=mode == "force", moved=decision.moved)
        return
    details = "".join(f"\n  {line}" for line in (*decision.evidence, *decision.remedy))
    if mode == "force":
        raise RuntimeError(
            f"DSA_DOCTOR_PLUGIN=force, but dsa-doctor's plugin cannot serve: {decision.reason}.{details}"
        )
    level = logging.INFO if decision.outcome == "stands_down" else logging.WARNING
    say("dsa-doctor's plugin changes nothing: %s.%s", decision.reason, details, level=level)
