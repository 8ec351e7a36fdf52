"""Layer 3: can the lightning indexer run? Installed, importable and supported are three answers, not one."""

from dsa_doctor.facts.schema import DeepGemmCopy
from dsa_doctor.resolver.family_needs import deep_gemm_supported, failing
from dsa_doctor.resolver.judgement import Judged, Judgement, finding, judged
from dsa_doctor.resolver.plugin_finding import plugin_finding
from dsa_doctor.verdict.schema import Finding

_REMEDIES = {
    "no_cuda_toolkit": "install a CUDA toolkit and set CUDA_HOME   # DeepGEMM compiles its kernels at run time",
    "no_driver_or_cuda_torch": "run this check where the CUDA build of torch and the driver are installed",
    "broken": "pip install --force-reinstall --no-deps vllm   # brings its copy of DeepGEMM anew",
}


def judge_indexer(case: Judgement) -> Judged:
    """Judge layer 3: DeepGEMM where the architecture supports it, else the plugin, else unresolved."""
    observation = case.facts.deep_gemm
    if observation.value is None and observation.status == "unknown":
        summary = f"Whether DeepGEMM is installed is unknown: {observation.cause}."
        found = finding("DSA306", "unknown", summary, evidence=observation.evidence)
        return judged("indexer", "unknown", summary, (found,))
    copies = observation.value.copies if observation.value is not None else ()
    if case.is_stranger:
        summary = f"How {case.model.architecture} selects its tokens is not known to this dsa-doctor."
        return judged("indexer", "unknown", summary, (finding("DSA306", "unknown", summary),))
    if case.gate.outranks:
        return _by_plugin(case, copies)
    if deep_gemm_supported(case):
        return _on_deep_gemm(case, copies)
    if case.gate.serves:
        return _by_plugin(case, copies)
    return _unsupported(case, copies)


def _who_says(case: Judgement) -> str:
    if case.deep_gemm_said is not None:
        return "vLLM's is_deep_gemm_supported(), asked with this capability"
    return "DeepGEMM's documentation; vLLM could not be asked"


def _three_answers(case: Judgement, copies: tuple[DeepGemmCopy, ...]) -> tuple[str, ...]:
    installed = ", ".join(_describe(copy) for copy in copies) or "no"
    importable = "; ".join(_import_outcome(copy) for copy in copies) or "no"
    supported = f"{'yes' if deep_gemm_supported(case) else 'no'} ({_who_says(case)})"
    return (
        f"installed: {installed}",
        f"importable: {importable}",
        f"supported on {case.capability.sm}: {supported}",
    )


def _describe(copy: DeepGemmCopy) -> str:
    place = "the copy vendored in vLLM" if copy.source == "vendored" else "the distribution deep_gemm"
    return f"{place}{f' (DeepGEMM {copy.version})' if copy.version else ''}"


def _import_outcome(copy: DeepGemmCopy) -> str:
    tried = copy.importable
    if tried.value is True:
        return "yes"
    if tried.value is False:
        last = tried.evidence[-1] if tried.evidence else "no error text"
        return f"no, {last}"
    return f"unknown, {tried.cause}"


def _on_deep_gemm(case: Judgement, copies: tuple[DeepGemmCopy, ...]) -> Judged:
    evidence = _three_answers(case, copies)
    if not copies:
        summary = f"DeepGEMM supports {case.gpu}, and no copy of it is installed."
        found = finding("DSA302", "fail", summary, evidence=evidence, remedy=("pip install -U vllm   # vendors it",))
        return judged("indexer", "unresolved", summary, (found,))
    outcomes = {copy.importable.value for copy in copies}
    if True in outcomes:
        summary = f"DeepGEMM is installed, imports, and supports {case.gpu}."
        return judged("indexer", "native", summary, (finding("DSA304", "pass", summary, evidence=evidence),))
    remedy = tuple(dict.fromkeys(_REMEDIES[copy.failure or "broken"] for copy in copies))
    broken = any(copy.failure == "broken" for copy in copies)
    if case.target.is_elsewhere and not broken:
        summary = f"DeepGEMM cannot be imported on this machine, which says nothing about the {case.gpu}."
        served = f"DeepGEMM is installed and supports {case.gpu}."
        findings = (
            finding("DSA304", "pass", served, evidence=evidence),
            finding("DSA303", "warn", summary, evidence=evidence, remedy=remedy, judge_only=True),
        )
        return judged("indexer", "native", f"{served} {summary}", findings)
    if None in outcomes:
        summary = f"DeepGEMM supports {case.gpu}; whether it can be imported is unknown."
        return judged("indexer", "unknown", summary, (finding("DSA303", "unknown", summary, evidence=evidence),))
    summary = f"DeepGEMM supports {case.gpu} and is installed, and its import fails."
    found = finding("DSA303", "fail", summary, evidence=evidence, remedy=remedy)
    return judged("indexer", "unresolved", summary, (found,))


def _by_plugin(case: Judgement, copies: tuple[DeepGemmCopy, ...]) -> Judged:
    support = "would support" if deep_gemm_supported(case) else "does not support"
    summary = f"dsa-doctor's kernels serve the indexer on {case.gpu}; DeepGEMM {support} it and is not called."
    found = finding("DSA305", "pass", summary, evidence=_three_answers(case, copies))
    return judged("indexer", "plugin", summary, (found,))


def _unsupported(case: Judgement, copies: tuple[DeepGemmCopy, ...]) -> Judged:
    although = "although it is installed" if copies else "and it is not installed either"
    summary = f"The indexer calls DeepGEMM, which does not support {case.gpu}, {although}."
    evidence = _three_answers(case, copies)
    fingerprint = case.facts.fingerprint.value
    if fingerprint is not None and fingerprint.indexer_guard == "installed":
        evidence += ("vLLM's guard asks whether DeepGEMM is installed, not whether the GPU supports it",)
    evidence += tuple(f"fails as well: {step}" for step in failing(case, "indexer"))
    remedy = case.gate.remedy
    findings: tuple[Finding, ...] = (finding("DSA301", "fail", summary, evidence=evidence, remedy=remedy),)
    if case.gate.outcome != "absent":
        findings += (plugin_finding(case),)
    return judged("indexer", "unresolved", summary, findings)
