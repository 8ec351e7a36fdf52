"""Layer 2: is there a sparse-MLA backend for this GPU, by vLLM's own word?"""

from dsa_doctor import __version__
from dsa_doctor.facts.observation import NOTHING_IS_RUN
from dsa_doctor.installation import this_installation
from dsa_doctor.resolver.judgement import Judged, Judgement, finding, judged
from dsa_doctor.resolver.own_attention import judge_own_attention, own_backends
from dsa_doctor.resolver.plugin_finding import plugin_finding
from dsa_doctor.resolver.request import TRITON_BACKEND
from dsa_doctor.resolver.settings import mla_is_off
from dsa_doctor.resolver.sm120 import with_flashinfer
from dsa_doctor.verdict.schema import Backend, Finding


def judge_attention(case: Judgement) -> Judged:
    """Judge layer 2 from vLLM's answer, then from the plugin."""
    if mla_is_off(case.facts):
        summary = (
            "VLLM_MLA_DISABLE is set: vLLM then builds no MLA layers, and what it does with sparse ones is not known."
        )
        remedy = ("unset VLLM_MLA_DISABLE",)
        return judged("attention", "unknown", summary, (finding("DSA204", "unknown", summary, remedy=remedy),))
    if case.family is not None and case.family.picker is not None:
        return judge_own_attention(case, case.family)
    if case.is_stranger:
        return _stranger(case)
    asked_for = case.request.backend
    if asked_for == TRITON_BACKEND:
        return _by_plugin(case) if case.gate.serves else _plugin_cannot(case)
    if case.gate.outranks and asked_for is None:
        return _by_plugin(case)
    if case.answer is None:
        return _not_asked(case)
    answer = case.answer
    if answer.chosen is not None:
        return _chosen(case, answer.chosen)
    if asked_for is not None:
        return _named_backend_rejected(case, asked_for)
    if case.gate.serves:
        return _by_plugin(case)
    return _unresolved(case)


def list_backends(case: Judgement) -> tuple[Backend, ...]:
    """Return every candidate, vLLM's in its order and the plugin's last: taken, valid or rejected, and why."""
    if case.family is not None and case.family.picker is not None:
        return own_backends(case)
    candidates, chosen = (case.answer.candidates, case.answer.chosen) if case.answer is not None else ((), None)
    stock = tuple(
        Backend(name=one.name, accepted=one.accepted, reasons=one.reasons or _why_valid(one.name, chosen))
        for one in candidates
    )
    if any(one.name == TRITON_BACKEND for one in stock):
        return stock
    reason = f"dsa-doctor's plugin: {case.gate.reason}"
    return (*stock, Backend(name=TRITON_BACKEND, accepted=case.gate.serves, reasons=(reason,)))


def _why_valid(name: str, chosen: str | None) -> tuple[str, ...]:
    return ("taken: the first valid one in vLLM's order",) if name == chosen else (f"valid; vLLM prefers {chosen}",)


def _chosen(case: Judgement, name: str) -> Judged:
    assumed = case.answer.assumed if case.answer is not None else ()
    evidence: tuple[str, ...] = (f"vLLM's selector chose {name} for {case.query_text}",)
    if assumed:
        evidence += (f"taken as loadable on the target, though this machine cannot load it: {', '.join(assumed)}",)
    if name == TRITON_BACKEND:
        summary = f"This vLLM has a {TRITON_BACKEND} of its own, and its selector takes it on {case.gpu}."
        return judged("attention", "upstream", summary, (finding("DSA206", "pass", summary, evidence=evidence),))
    summary = f"vLLM's own {name} serves sparse MLA on {case.gpu}."
    native = judged("attention", "native", summary, (finding("DSA202", "pass", summary, evidence=evidence),))
    return with_flashinfer(case, name, native)


def _by_plugin(case: Judgement) -> Judged:
    summary = f"dsa-doctor's {TRITON_BACKEND} serves sparse MLA on {case.gpu}, where vLLM has no backend of its own."
    if case.gate.outranks and case.answer is None:
        summary = f"dsa-doctor's {TRITON_BACKEND} serves sparse MLA on {case.gpu}, as it was asked to."
    if case.answer is not None and case.answer.chosen is not None:
        how = "was asked for by name" if case.request.backend == TRITON_BACKEND else "outranks vLLM's own"
        summary = f"{TRITON_BACKEND} {how} and serves here; vLLM alone would take {case.answer.chosen}."
    found = finding("DSA203", "pass", summary, evidence=(case.gate.reason, *_rejections(case)))
    return judged("attention", "plugin", summary, (found,))


def _plugin_cannot(case: Judgement) -> Judged:
    summary = f"{TRITON_BACKEND} was asked for by name and cannot serve here: {case.gate.reason}."
    found = finding("DSA207", "fail", summary, evidence=case.gate.evidence, remedy=case.gate.remedy)
    return judged("attention", "unresolved", summary, (found,))


def _named_backend_rejected(case: Judgement, name: str) -> Judged:
    summary = f"{name} was asked for by name, and vLLM's selector rejects it on {case.gpu}."
    remedy = ("leave the backend out: vLLM, or dsa-doctor's plugin, then chooses one that works",)
    found = finding("DSA207", "fail", summary, evidence=_rejections(case), remedy=remedy)
    return judged("attention", "unresolved", summary, (found,))


def _unresolved(case: Judgement) -> Judged:
    findings: list[Finding] = []
    summary = f"No attention backend of this vLLM serves sparse MLA on {case.gpu}."
    remedy = case.gate.remedy
    findings.append(finding("DSA201", "fail", summary, evidence=_rejections(case), remedy=remedy))
    kv_cache_dtype = case.answer.query.kv_cache_dtype if case.answer is not None else "auto"
    rejected_for_dtype = tuple(
        one.name
        for one in (case.answer.candidates if case.answer is not None else ())
        if any("kv_cache_dtype" in reason for reason in one.reasons) and len(one.reasons) == 1
    )
    if rejected_for_dtype:
        found = finding(
            "DSA205",
            "fail",
            f"The KV cache dtype {kv_cache_dtype} alone rules out {', '.join(rejected_for_dtype)}.",
            evidence=(case.query_text,),
            remedy=("--kv-cache-dtype bfloat16",),
        )
        findings.append(found)
    if case.gate.outcome != "absent":
        findings.append(plugin_finding(case))
    reason = f"{summary} dsa-doctor's plugin does not step in: {case.gate.reason}."
    return judged("attention", "unresolved", reason, tuple(findings))


def _not_asked(case: Judgement) -> Judged:
    selector, vllm_import = case.facts.selector, case.facts.vllm_import
    broken = _broken_answer(case)
    if broken is not None:
        cause, remedy = f"vLLM's selector broke on {case.query_text}: {broken}", (this_installation().upgrade,)
    elif selector.value is not None:
        cause = f"these facts hold no answer of vLLM's selector for {case.query_text}"
        remedy = ("dsa-doctor check MODEL   # on the machine itself asks for exactly this case",)
    else:
        cause = selector.cause or vllm_import.cause or "the selector was not asked"
        remedy = (_ask_again(case),)
    summary = f"vLLM's backend selector could not be asked: {cause}."
    found = finding("DSA204", "unknown", summary, evidence=selector.evidence, remedy=remedy)
    return judged("attention", "unknown", summary, (found,))


def _ask_again(case: Judgement) -> str:
    """Return what to do where the selector gave no answer: only a failure is shown in full by an import."""
    selector = case.facts.selector
    if selector.cause == NOTHING_IS_RUN:
        return "the same command without --no-execute   # or --facts FILE: dsa-doctor facts writes it where vLLM serves"
    failed = "absent" in {selector.status, case.facts.vllm_import.status}
    if failed or selector.evidence or selector.seconds > 1:
        return "python -c 'import vllm'   # in the judged environment: shows the failure in full"
    return "dsa-doctor check MODEL   # where vLLM and an interpreter are at hand: it asks the selector itself"


def _stranger(case: Judgement) -> Judged:
    """A model class that this vLLM registers and whose path is not known here: nothing is promised."""
    fingerprint = case.facts.fingerprint.value
    where = (fingerprint.registered or {}).get(case.model.architecture) if fingerprint is not None else None
    summary = (
        f"This vLLM serves {case.model.architecture} with {where}, whose way to sparse attention is not known to "
        f"dsa-doctor {__version__}."
    )
    found = finding("DSA204", "unknown", summary, remedy=(this_installation().upgrade,))
    return judged("attention", "unknown", summary, (found,))


def _broken_answer(case: Judgement) -> str | None:
    """Return the error of a question that broke, which says nothing about any backend."""
    answers = case.facts.selector.value.answers if case.facts.selector.value is not None else ()
    return next((one.error for one in answers if one.broke and one.query == case.query), None)


def _rejections(case: Judgement) -> tuple[str, ...]:
    """Return vLLM's error without its list of reasons: the verdict carries those per backend."""
    if case.answer is None or case.answer.error is None:
        return ()
    return (f"vLLM: {case.answer.error.split(' Reasons: ')[0]}",)
