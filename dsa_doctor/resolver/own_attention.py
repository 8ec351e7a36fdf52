"""Layer 2 of families that pick their attention class themselves: vLLM's selector is never asked for their layers."""

from dsa_doctor.compat.families import Family
from dsa_doctor.facts.schema import AttentionCandidate, OwnAttention
from dsa_doctor.resolver.family_needs import failing, steps
from dsa_doctor.resolver.judgement import Judged, Judgement, finding, judged
from dsa_doctor.resolver.picks import pick_of, picks_of, taken_of
from dsa_doctor.resolver.plugin_finding import plugin_finding
from dsa_doctor.resolver.request import TRITON_BACKEND
from dsa_doctor.resolver.sm120 import with_flashinfer
from dsa_doctor.verdict.schema import Backend


def judge_own_attention(case: Judgement, family: Family) -> Judged:
    """Judge layer 2 from what vLLM's sources say that the family picks on this compute capability."""
    if _is_missing(case):
        summary = f"This vLLM has no {family.title}, so none of its attention classes serves {case.gpu}."
        return judged("attention", "unresolved", summary, (finding("DSA201", "fail", summary),))
    if case.request.backend == TRITON_BACKEND:
        if case.gate.serves:
            return _by_plugin(case, family)
        summary = f"{TRITON_BACKEND} was asked for by name and cannot serve here: {case.gate.reason}."
        return judged("attention", "unresolved", summary, (finding("DSA207", "fail", summary),))
    own, pick = picks_of(case), pick_of(case)
    if own is None or pick is None:
        return _unknown(case, family)
    evidence: tuple[str, ...] = (f"picked by {own.picked_by}, which does not ask vLLM's backend selector",)
    if pick.refused and not pick.candidates:
        summary = f"{case.request.backend} was asked for by name, and {family.title} does not take it."
        said = (f"vLLM: {case.request.backend} {pick.refused}",)
        found = finding("DSA207", "fail", summary, evidence=(*said, *evidence), remedy=("leave the backend out",))
        return judged("attention", "unresolved", summary, (found,))
    if pick.asked is None and case.request.backend is not None:
        evidence += (f"{case.request.backend} was asked for by name, and {family.title} pays no heed to it",)
    wrong = failing(case, "attention")
    if case.gate.serves and case.request.backend is None and (wrong or case.gate.outranks):
        return _by_plugin(case, family)
    if wrong:
        return _unresolved(case, family, own, wrong[0], evidence)
    taken = taken_of(pick)
    if not taken:
        summary = f"Whether {_named(pick.candidates)} serves {case.gpu} could not be told from vLLM's sources."
        return judged("attention", "unknown", summary, (finding("DSA204", "unknown", summary, evidence=evidence),))
    accepted = {dtype for one in taken for dtype in one.kv_cache_dtypes}
    asked = case.request.kv_cache_dtype
    if asked not in accepted and (asked != "auto" or not accepted):
        return _wrong_cache(case, _named(taken), asked, accepted)
    summary = f"vLLM's own {_named(taken)} serves {family.title}'s attention on {case.gpu}."
    native = judged("attention", "native", summary, (finding("DSA202", "pass", summary, evidence=evidence),))
    return with_flashinfer(case, own_choice(case), native)


def _by_plugin(case: Judgement, family: Family) -> Judged:
    """The plugin's class, with what the path needs besides: compressor or engram, mHC product, output rope."""
    with_it = "engram" if family.key == "deepseek_v41" else "compressor"
    summary = (
        f"dsa-doctor's {TRITON_BACKEND} serves {family.title}'s attention on {case.gpu}, with its {with_it} and its "
        "mHC product."
    )
    evidence = (case.gate.reason, *(f"replaced: {step}" for step in steps(case)))
    return judged("attention", "plugin", summary, (finding("DSA203", "pass", summary, evidence=evidence),))


def own_choice(case: Judgement) -> str | None:
    """Return the name of the one backend that is taken; None where more than the capability decides among several."""
    pick = pick_of(case)
    names = {one.backend for one in taken_of(pick)} if pick is not None else set()
    return names.pop() if len(names) == 1 else None


def own_backends(case: Judgement) -> tuple[Backend, ...]:
    """Return the backends that the family can take, and the plugin's: taken, valid or rejected, and why."""
    own, pick = picks_of(case), pick_of(case)
    taken = [one.backend for one in taken_of(pick)] if pick is not None else []
    listed: dict[str, Backend] = {}
    for one in own.picks if own is not None else ():
        if one.capability != str(case.capability):
            continue
        for candidate in one.candidates:
            name = candidate.backend or candidate.attention_class
            listed.setdefault(name, _listed(case, candidate, name, taken))
        if one.refused and not one.candidates and one.asked is not None:
            listed.setdefault(one.asked, Backend(name=one.asked, accepted=False, reasons=(one.refused,)))
    reason = f"dsa-doctor's plugin: {case.gate.reason}"
    return (*listed.values(), Backend(name=TRITON_BACKEND, accepted=case.gate.serves, reasons=(reason,)))


def _listed(case: Judgement, candidate: AttentionCandidate, name: str, taken: list[str | None]) -> Backend:
    if candidate.supported is False:
        reason = f"{candidate.attention_class}: compute capability {case.capability} not supported"
    elif candidate.supported is None:
        reason = f"{candidate.attention_class}: its capabilities could not be told"
    else:
        reason = f"taken: {candidate.attention_class}" if name in taken else f"valid: {candidate.attention_class}"
    return Backend(name=name, accepted=candidate.supported is True, reasons=(reason,))


def _named(candidates: tuple[AttentionCandidate, ...]) -> str:
    return " or ".join(dict.fromkeys(one.backend or one.attention_class for one in candidates))


def _is_missing(case: Judgement) -> bool:
    fingerprint = case.facts.fingerprint.value
    registered = fingerprint.registered if fingerprint is not None else None
    return registered is not None and case.model.architecture not in registered


def _wrong_cache(case: Judgement, name: str, asked: str, accepted: set[str]) -> Judged:
    if not accepted:
        summary = f"Which KV cache dtypes {name} takes could not be told from vLLM's sources."
        return judged("attention", "unknown", summary, (finding("DSA204", "unknown", summary),))
    summary = f"{name}, which serves {case.gpu}, has no KV cache of dtype {asked}."
    remedy = ("--kv-cache-dtype auto",)
    found = finding("DSA205", "fail", summary, evidence=(f"accepted: {', '.join(sorted(accepted))}",), remedy=remedy)
    return judged("attention", "unresolved", summary, (found,))


def _unknown(case: Judgement, family: Family) -> Judged:
    fingerprint = case.facts.fingerprint
    if fingerprint.value is None:
        cause = f"vLLM's sources could not be read: {fingerprint.cause}"
    elif fingerprint.value.own_attention is None:
        cause = "these facts hold nothing of it; gather them again with this dsa-doctor"
    else:
        cause = "the function that picks it was not recognised in this vLLM"
    summary = f"Which attention class {family.title} picks on {case.gpu} is unknown: {cause}."
    return judged("attention", "unknown", summary, (finding("DSA204", "unknown", summary),))


def _unresolved(case: Judgement, family: Family, own: OwnAttention, first: str, evidence: tuple[str, ...]) -> Judged:
    capabilities = [one.capability for one in own.picks if one.asked is None and taken_of(one)]
    remedy = (f"a GPU of compute capability {', '.join(capabilities)}",) if capabilities else ()
    summary = f"No attention class of {family.title} serves {case.gpu}. The first step that fails: {first}."
    found = finding("DSA201", "fail", summary, evidence=(*evidence, *steps(case)), remedy=remedy)
    reason = f"{summary} dsa-doctor's plugin does not step in: {case.gate.reason}."
    return judged("attention", "unresolved", reason, (found, plugin_finding(case)))
