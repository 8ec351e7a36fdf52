"""What the plugin has done in this process; vLLM loads plugins in each of its processes."""

from dataclasses import dataclass, field


@dataclass
class PluginState:
    """What is done already.

    Attributes:
        registered: whether vLLM has loaded the plugin.
        forced: whether DSA_DOCTOR_PLUGIN=force, or on 12.x the server's options, installed it: then it outranks native
            backends.
        moved: families that this vLLM's sources keep the plugin from serving, to the patch targets that moved.
        applied: names of the families whose patches are in place.
        judged: models whose start-up block was logged.
        asked_cache: --kv-cache-dtype of the server, where the plugin waits to be asked for (12.x).
    """

    registered: bool = False
    forced: bool = False
    moved: dict[str, tuple[str, ...]] = field(default_factory=dict)
    applied: set[str] = field(default_factory=set)
    judged: list[str] = field(default_factory=list)
    asked_cache: str | None = None


STATE = PluginState()
