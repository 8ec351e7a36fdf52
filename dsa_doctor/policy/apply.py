"""Applies a policy to verdicts: what each check counts for, the exit code, and what would downgrade a failure. Pure."""

import difflib
from collections.abc import Sequence
from datetime import date

from dsa_doctor import __version__
from dsa_doctor.catalog.models import KNOWN_MODELS, find_model
from dsa_doctor.policy.agreement import with_agreement
from dsa_doctor.policy.downgrade import downgrade_lines, downgrade_place
from dsa_doctor.policy.report import Gate, GatedVerdict, ManifestPin, Outcome, PolicyReport, Report, SuppressionState
from dsa_doctor.policy.schema import Policy, Suppression
from dsa_doctor.verdict.schema import EXIT_BITS, EXIT_UNDETERMINED, Finding, Layer, Verdict


def apply_policy(
    judged: Sequence[tuple[str | None, Verdict]],
    policy: Policy,
    *,
    today: date,
    manifest: ManifestPin | None = None,
) -> Report:
    """Return the report of a run.

    The exit code joins the bits of every verdict. A layer that the policy requires sets its bit where its state is
    not allowed, unless all findings behind that are suppressed; a finding of `runtime` that fails sets 32 where no
    layer does. Strict, an unsuppressed warning sets its layer's bit, and 32 where it is of `runtime` or of the policy
    itself. With the default policy the exit code is the verdict's own.

    Args:
        judged: what was judged (None is the running environment) and its verdict; at least one.
        policy: what to hold them to.
        today: the day on which suppressions are looked at.
        manifest: the line that pins vLLM: formats point at it, and a verdict on another version fails by DSA918.
    """
    if not judged:
        raise ValueError("a report needs at least one verdict")
    cases = [_Case(with_agreement(verdict, manifest), environment, policy, today) for environment, verdict in judged]
    states = tuple(_state_of(one, cases, today) for one in policy.suppressions)
    warnings = tuple(text for one in states for text in _warnings(one, policy, [verdict for _, verdict in judged]))
    exit_code = EXIT_UNDETERMINED if policy.strict and warnings else 0
    for case in cases:
        exit_code |= case.exit_code()
    verdicts = tuple(case.gated() for case in cases)
    failing = [case.failing_ids() for case in cases]
    return Report(
        dsa_doctor_version=__version__,
        verdicts=verdicts,
        policy=PolicyReport(
            source=policy.source,
            strict=policy.strict,
            required_layers=policy.required_layers,
            allowed_states=policy.allowed_states,
            suppressions=states,
            warnings=warnings,
            downgrade_table=downgrade_place(policy),
            downgrade_lines=downgrade_lines(verdicts, failing, policy, today=today),
        ),
        manifest=manifest,
        exit_code=exit_code,
    )


class _Case:
    """One verdict under one policy."""

    def __init__(self, verdict: Verdict, environment: str | None, policy: Policy, today: date) -> None:
        self.verdict = verdict
        self.environment = environment
        self.policy = policy
        active = [one for one in policy.suppressions if not one.expired(today) and one.concerns(verdict)]
        self.suppressed_by = {one.id: one for one in reversed(active)}
        self.violated = [layer for layer in verdict.layers if self._violates(layer)]
        self.causes = {layer.layer: _causes(layer, verdict) for layer in self.violated}
        self.causing_ids = {one.id for found in self.causes.values() for one in found}
        self.outcomes = self._outcomes()

    def gated(self) -> GatedVerdict:
        """Return the verdict with the policy's exit code and outcomes."""
        gate = Gate(exit_code_without_policy=self.verdict.exit_code, outcomes=self.outcomes)
        fields = {name: getattr(self.verdict, name) for name in Verdict.model_fields}
        return GatedVerdict(**{**fields, "exit_code": self.exit_code()}, environment=self.environment, gate=gate)

    def exit_code(self) -> int:
        """Return the bits of this verdict."""
        code = 0
        for layer in self.violated:
            if not self._waived(layer):
                code |= EXIT_UNDETERMINED if layer.state == "unknown" else EXIT_BITS[layer.layer]
        runtime_fails = any(
            one.layer == "runtime" and one.status == "fail" and self._counts(one) for one in self.verdict.findings
        )
        if code == 0 and runtime_fails:
            code = EXIT_UNDETERMINED
        if self.policy.strict:
            for one in self.verdict.findings:
                if one.status == "warn" and self._counts(one):
                    code |= EXIT_UNDETERMINED if one.layer == "runtime" else EXIT_BITS[one.layer]
        return code

    def failing_ids(self) -> set[str]:
        """Return the ids that would have to be suppressed for this verdict to pass."""
        ids: set[str] = set()
        for outcome in self.outcomes:
            if outcome.result not in {"fail", "unknown"}:
                continue
            if outcome.finding_id is not None:
                ids.add(outcome.finding_id)
            else:
                ids |= {one.id for layer in self.violated for one in self.causes[layer.layer]}
        return ids - set(self.suppressed_by)

    def matches(self, suppression: Suppression) -> bool:
        """Whether the suppression has something to suppress here."""
        return suppression.concerns(self.verdict) and any(
            one.id == suppression.id and (one.status in {"fail", "unknown", "warn"} or one.id in self.causing_ids)
            for one in self.verdict.findings
        )

    def _violates(self, layer: Layer) -> bool:
        return layer.layer in self.policy.required_layers and (
            layer.state not in self.policy.allowed_states[layer.layer]
        )

    def _counts(self, finding: Finding) -> bool:
        """Whether a finding that does not pass counts: its layer is required, and it is not suppressed."""
        required = finding.layer in self.policy.required_layers or finding.id in self.causing_ids
        return required and finding.id not in self.suppressed_by

    def _waived(self, layer: Layer) -> bool:
        causes = self.causes[layer.layer]
        return bool(causes) and all(one.id in self.suppressed_by for one in causes)

    def _outcomes(self) -> tuple[Outcome, ...]:
        of_findings = [self._outcome(one) for one in self.verdict.findings]
        of_states = [self._state_outcome(layer, of_findings) for layer in self.verdict.layers]
        return (*(one for one in of_states if one is not None), *of_findings)

    def _outcome(self, finding: Finding) -> Outcome:
        def outcome(result: str, message: str) -> Outcome:
            return Outcome.model_validate(
                {"layer": finding.layer, "finding_id": finding.id, "result": result, "message": message}
            )

        if finding.status in {"pass", "skip"}:
            return outcome(finding.status, finding.summary)
        if (by := self.suppressed_by.get(finding.id)) is not None:
            return outcome("suppressed", _suppressed(by, finding.summary))
        if not self._counts(finding):
            return outcome("skip", f"The policy does not require layer {finding.layer}. {finding.summary}")
        if finding.status == "warn" and self.policy.strict:
            return outcome("fail", f"{finding.summary} (A warning, and the run is strict.)")
        return outcome(finding.status, finding.summary)

    def _state_outcome(self, layer: Layer, of_findings: list[Outcome]) -> Outcome | None:
        """Return the outcome of a state that is not accepted and that no finding of the layer itself shows."""
        if layer not in self.violated:
            if layer.layer not in self.policy.required_layers and layer.state in {"unresolved", "unknown"}:
                message = f"The policy does not require layer {layer.layer}. {layer.reason}"
                return Outcome(layer=layer.layer, finding_id=None, result="skip", message=message)
            return None
        causes = self.causes[layer.layer]
        ids = {one.id for one in causes}
        shown = {"fail", "unknown", "suppressed"}
        if any(one.layer == layer.layer and one.finding_id in ids and one.result in shown for one in of_findings):
            return None
        message = layer.reason
        if layer.state not in {"unresolved", "unknown"}:
            allowed = ", ".join(self.policy.allowed_states[layer.layer])
            message = f"The state of layer {layer.layer} is {layer.state}, and the policy allows {allowed}. {message}"
        if self._waived(layer):
            message = _suppressed(self.suppressed_by[causes[0].id], message)
            return Outcome(layer=layer.layer, finding_id=None, result="suppressed", message=message)
        result = "unknown" if layer.state == "unknown" else "fail"
        return Outcome.model_validate({"layer": layer.layer, "finding_id": None, "result": result, "message": message})


_DECIDING = {
    ("csrc", "native"): "DSA101",
    ("csrc", "upstream"): "DSA104",
    ("attention", "native"): "DSA202",
    ("attention", "upstream"): "DSA206",
    ("attention", "plugin"): "DSA203",
    ("indexer", "native"): "DSA304",
    ("indexer", "plugin"): "DSA305",
}
"""Layer and resolved state to the finding that reports it, which is what to suppress where the state is not allowed."""


def _causes(layer: Layer, verdict: Verdict) -> list[Finding]:
    """Return the findings behind a layer's state: those of its own that do not pass, else others that it names."""
    if layer.state not in {"unresolved", "unknown"}:
        return [one for one in verdict.findings if one.id == _DECIDING.get((layer.layer, layer.state))]
    named = [one for one in verdict.findings if one.id in layer.finding_ids]
    wrong = [one for one in named if one.status in {"fail", "unknown"}]
    return [one for one in wrong if one.layer == layer.layer] or wrong or named


def _suppressed(by: Suppression, message: str) -> str:
    return f"Suppressed until {by.expires.isoformat()}: {by.reason}. What it hides: {message}"


def _state_of(suppression: Suppression, cases: list[_Case], today: date) -> SuppressionState:
    if suppression.expired(today):
        state = "expired"
    elif any(case.matches(suppression) for case in cases):
        state = "applied"
    elif any(suppression.concerns(case.verdict) for case in cases):
        state = "stale"
    else:
        state = "not judged"
    return SuppressionState.model_validate({**suppression.model_dump(), "state": state})


def _warnings(one: SuppressionState, policy: Policy, verdicts: Sequence[Verdict]) -> list[str]:
    where = f"{policy.source or 'policy'}: the suppression of {one.id}"
    if one.state == "expired":
        return [f"{where} expired on {one.expires.isoformat()} and does not apply. Renew its date, or remove it."]
    if one.state == "stale":
        return [f"{where} matched nothing. Remove it."]
    return [f"{where} {_nobody(model)}" for model in one.models if _is_nobody(model, verdicts)]


def _is_nobody(model: str, verdicts: Sequence[Verdict]) -> bool:
    """Whether a name is neither in the catalog nor that of a model of this run: as a typo, it never applies."""
    judged = {name.casefold() for one in verdicts if one.model for name in (one.model.name, one.model.hub_id or "")}
    return find_model(model) is None and model.casefold() not in judged


def _nobody(model: str) -> str:
    names = {one.name.casefold(): one.name for one in KNOWN_MODELS}
    near = difflib.get_close_matches(model.casefold(), names, n=1, cutoff=0.6)
    hint = f" Did you mean {names[near[0]]}?" if near else ""
    pattern = " Patterns are not understood: name each model." if set(model) & set("*?[") else ""
    return f"names the model {model!r}, which is not known and was not judged, so it never applies.{hint}{pattern}"
