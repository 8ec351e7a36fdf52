"""What every layer's judge is given."""

from dataclasses import dataclass

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.compat.families import Family
from dsa_doctor.facts.schema import Facts, SelectorAnswer, SelectorQuery
from dsa_doctor.resolver.plugin_gate import GateDecision
from dsa_doctor.resolver.request import PluginMode, Request, Target
from dsa_doctor.resolver.settings import PluginSettings
from dsa_doctor.verdict.schema import LAYER_NUMBERS, Finding, Layer, LayerName, State, Status


@dataclass(frozen=True)
class Judgement:
    """The inputs of one judgement, and what is decided once for all layers.

    Attributes:
        facts: what was gathered.
        model: the model's geometry.
        target: the GPU to judge for.
        request: options of the launch.
        settings: how the judged environment stands to the plugin.
        gate: whether the plugin serves this model here.
        family: the model's family; None where it belongs to none known here.
        query: the question that vLLM's selector must have answered.
        answer: vLLM's own answer to this very query; None where it was not or could not be asked.
    """

    facts: Facts
    model: ModelGeometry
    target: Target
    request: Request
    settings: PluginSettings
    family: Family | None
    gate: GateDecision
    query: SelectorQuery
    answer: SelectorAnswer | None

    @property
    def capability(self) -> Capability:
        """Return the target's capability."""
        return self.target.parsed

    @property
    def plugin_mode(self) -> PluginMode:
        """Return DSA_DOCTOR_PLUGIN as the judged environment or the command line has it."""
        return self.settings.mode

    @property
    def deep_gemm_said(self) -> bool | None:
        """Return vLLM's own word on DeepGEMM for this capability, which no model's shape changes; None without one."""
        answers = self.facts.selector.value.answers if self.facts.selector.value is not None else ()
        here = (one for one in answers if one.query.capability == self.query.capability)
        return next((one.deep_gemm_supported for one in here if one.deep_gemm_supported is not None), None)

    @property
    def is_stranger(self) -> bool:
        """Whether this vLLM registers the model's architecture, and its path is not known here."""
        fingerprint = self.facts.fingerprint.value
        registered = fingerprint.registered if fingerprint is not None else None
        return self.family is None and registered is not None and self.model.architecture in registered

    @property
    def query_text(self) -> str:
        """Return the query in words, for evidence."""
        return (
            f"head size {self.query.head_size}, {self.query.num_heads} heads per rank, {self.query.dtype}, "
            f"KV cache {self.query.kv_cache_dtype}, compute capability {self.query.capability}"
        )

    @property
    def gpu(self) -> str:
        """Return the target in words, e.g. "NVIDIA A100 80GB"."""
        return self.target.name


@dataclass(frozen=True)
class Judged:
    """One layer's state and the findings behind it."""

    layer: Layer
    findings: tuple[Finding, ...]


def finding(
    finding_id: str,
    status: Status,
    summary: str,
    *,
    evidence: tuple[str, ...] = (),
    remedy: tuple[str, ...] = (),
    judge_only: bool = False,
) -> Finding:
    """Return a finding of a known id; its layer comes from the catalog."""
    return Finding(
        id=finding_id,
        layer=FINDINGS_BY_ID[finding_id].layer,
        status=status,
        summary=summary,
        evidence=evidence,
        remedy=remedy,
        judge_only=judge_only,
    )


def judged(layer: LayerName, state: State, reason: str, findings: tuple[Finding, ...]) -> Judged:
    """Return a layer's state with the findings behind it."""
    ids = tuple(dict.fromkeys(one.id for one in findings))
    return Judged(
        Layer(number=LAYER_NUMBERS[layer], layer=layer, state=state, reason=reason, finding_ids=ids), findings
    )
