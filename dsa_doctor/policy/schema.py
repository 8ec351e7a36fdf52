"""What a policy file may say: targets and models, what is required of each layer, and what is tolerated until when."""

from datetime import date
from typing import Literal

from pydantic import ConfigDict, Field

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.targets import find_gpu
from dsa_doctor.facts.observation import Fact
from dsa_doctor.verdict.schema import FindingLayer, LayerName, Verdict

ResolvedState = Literal["native", "upstream", "plugin"]

RESOLVED_STATES: tuple[ResolvedState, ...] = ("native", "upstream", "plugin")
LAYER_NAMES: tuple[LayerName, ...] = ("csrc", "attention", "indexer")
GATED_LAYERS: tuple[FindingLayer, ...] = (*LAYER_NAMES, "runtime")


class Suppression(Fact):
    """One finding that is tolerated, why, and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    reason: str
    expires: date
    """The last day on which it applies."""
    targets: tuple[str, ...] = ()
    """GPUs it is limited to, as for --target; empty means every one."""
    models: tuple[str, ...] = ()
    """Models it is limited to, as for MODEL; empty means every one."""

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return today > self.expires

    def concerns(self, verdict: Verdict) -> bool:
        """Whether the verdict's GPU and model are among those it is limited to."""
        return self._concerns_target(verdict) and self._concerns_model(verdict)

    def _concerns_target(self, verdict: Verdict) -> bool:
        if not self.targets:
            return True
        return verdict.target is not None and any(
            _same_gpu(entry, verdict.target.name, verdict.target.capability) for entry in self.targets
        )

    def _concerns_model(self, verdict: Verdict) -> bool:
        if not self.models:
            return True
        model = verdict.model
        return model is not None and any(
            entry.casefold() in {model.name.casefold(), (model.hub_id or "").casefold()}
            or ((known := find_model(entry)) is not None and known.name == model.name)
            for entry in self.models
        )


class Policy(Fact):
    """What a run is held to.

    Attributes:
        source: file it was read from, as the user would name it; None for the defaults.
        table: TOML table that holds it in that file; empty at the top level.
        models: judged where the command line names none.
        targets: judged where the command line names none.
        required_layers: layers whose failure fails the run; `runtime` is what else is known to bite.
        allowed_states: per layer, the states that count as resolved.
        strict: whether warnings fail the run.
        suppressions: findings that are tolerated.
    """

    source: str | None = None
    table: str = ""
    models: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    required_layers: tuple[FindingLayer, ...] = GATED_LAYERS
    allowed_states: dict[LayerName, tuple[ResolvedState, ...]] = Field(
        default_factory=lambda: dict.fromkeys(LAYER_NAMES, RESOLVED_STATES)
    )
    strict: bool = False
    suppressions: tuple[Suppression, ...] = ()

    @property
    def suppress_table(self) -> str:
        """Return the name of the TOML table that holds the suppressions."""
        return f"{self.table}.suppress" if self.table else "suppress"


def _same_gpu(entry: str, name: str, capability: str) -> bool:
    """Whether `entry` names the GPU called `name`, or its compute capability."""
    known = find_gpu(entry)
    if known is not None:
        return known == find_gpu(name) or known.name == name
    return str(Capability.parse(entry)) == capability
