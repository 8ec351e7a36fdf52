"""From facts to the verdict."""

from datetime import datetime

from dsa_doctor import __version__
from dsa_doctor.catalog.capability import shared_memory_per_block
from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.compat.families import family_of
from dsa_doctor.compat.settings import BREAKABLE_GRAPHS
from dsa_doctor.facts.schema import Facts, SelectorAnswer, SelectorQuery
from dsa_doctor.resolver.attention import judge_attention, list_backends
from dsa_doctor.resolver.configuration import configuration
from dsa_doctor.resolver.csrc import judge_csrc
from dsa_doctor.resolver.indexer import judge_indexer
from dsa_doctor.resolver.judgement import Judged, Judgement, finding, judged
from dsa_doctor.resolver.plugin_gate import asks_for_plugin, environment_gate, model_gate
from dsa_doctor.resolver.request import Case, Request, Target, heads_per_rank
from dsa_doctor.resolver.runtime import judge_runtime
from dsa_doctor.resolver.settings import plugin_settings
from dsa_doctor.resolver.start_refusals import Refusal, start_refusals
from dsa_doctor.verdict.schema import (
    LAYER_NUMBERS,
    Finding,
    Layer,
    ModelInfo,
    Software,
    TargetInfo,
    Verdict,
    exit_code_of,
)


def resolve(facts: Facts, *, model: ModelGeometry, target: Target, request: Request) -> Verdict:
    """Judge one model on one GPU; see `resolve_case`.

    Raises:
        RequestError: the request cannot be met whatever the facts (heads that the ranks do not divide).
    """
    return resolve_case(facts, Case.of(model, target, request))


def resolve_case(facts: Facts, asked: Case) -> Verdict:
    """Judge one model on one GPU; pure, and the only place where a verdict is made.

    Args:
        facts: gathered on any machine, or read from a file.
        asked: model, GPU, options and the question to vLLM's selector; a model without DSA is told so and not judged.
    """
    model, target, request = asked.model, asked.target, asked.request
    if not model.uses_dsa:
        return _not_dsa(facts, model, target, request)
    if facts.software.value is not None and "vllm" not in facts.software.value.packages:
        return _no_vllm(facts, model, target, request)
    case = judgement_of(facts, asked)
    parts = (judge_csrc(case), judge_attention(case), judge_indexer(case))
    layers = tuple(part.layer for part in parts)
    runtime = judge_runtime(case, layers)
    findings = _once(tuple(one for part in parts for one in part.findings) + runtime)
    layers = _with_blockers(layers, runtime)
    return Verdict(
        dsa_doctor_version=__version__,
        target=target_info(target),
        model=model_info(model, request),
        software=software_info(facts),
        layers=layers,
        findings=findings,
        backends=list_backends(case),
        configuration=configuration(case, layers),
        kept_from=kept_from(facts),
        exit_code=exit_code_of(layers, findings),
    )


def judgement_of(facts: Facts, asked: Case) -> Judgement:
    """Return the inputs of a judgement, with the plugin's gate and vLLM's answer looked up."""
    model, target, request = asked.model, asked.target, asked.request
    software = facts.software.value
    settings = plugin_settings(facts, request.plugin_mode)
    family, answer = family_of(model.architecture, model.model_type), _look_up(facts, asked.query)
    picks_itself = family is not None and family.picker is not None
    environment = environment_gate(
        capability=target.parsed,
        mode=settings.mode,
        registered=settings.registered,
        triton=software is not None and "triton" in software.packages,
        fingerprint=facts.fingerprint,
        kept_out=settings.kept_out,
        asked=asks_for_plugin(
            target.parsed,
            backend=request.backend,
            kv_cache_dtype=request.kv_cache_dtype,
            natively=picks_itself or answer is None or answer.chosen is not None,
        ),
    )
    return Judgement(
        facts=facts,
        model=model,
        target=target,
        request=request,
        settings=settings,
        family=family,
        gate=model_gate(
            environment,
            model=model,
            kv_cache_dtype=request.kv_cache_dtype,
            refused=_refused(facts, model, request),
        ),
        query=asked.query,
        answer=answer,
    )


def _refused(facts: Facts, model: ModelGeometry, request: Request) -> tuple[Refusal, ...]:
    fingerprint, settings = facts.fingerprint.value, facts.settings.value
    return start_refusals(
        model,
        request,
        graphs=settings.variables.get(BREAKABLE_GRAPHS) if settings is not None else None,
        keeps_drafts=fingerprint.open_pools_keep_drafts if fingerprint is not None else None,
    )


def target_info(target: Target) -> TargetInfo:
    """Return the target as the verdict shows it."""
    capability = target.parsed
    return TargetInfo(
        name=target.name,
        capability=str(capability),
        sm=capability.sm,
        count=target.count,
        memory_bytes=target.memory_bytes,
        shared_memory_per_block=shared_memory_per_block(capability),
        source=target.source,
    )


def model_info(model: ModelGeometry, request: Request) -> ModelInfo:
    """Return the model as the verdict shows it."""
    return ModelInfo(
        name=model.name,
        hub_id=model.hub_id,
        architecture=model.architecture,
        uses_dsa=model.uses_dsa,
        head_size=model.head_size,
        num_attention_heads=model.num_attention_heads,
        heads_per_rank=heads_per_rank(model, request),
        index_topk=model.index_topk,
        quantization=model.quantization,
        source=model.source,
    )


def software_info(facts: Facts) -> Software:
    """Return the judged versions as the verdict shows them."""
    packages = facts.software.value.packages if facts.software.value is not None else {}
    return Software(
        vllm=packages.get("vllm"),
        torch=packages.get("torch"),
        triton=packages.get("triton"),
        dsa_doctor=facts.dsa_doctor_version,
    )


def kept_from(facts: Facts) -> datetime | None:
    """Return when the oldest of the facts was observed that an earlier run had kept; None where there is none."""
    kept = (facts.csrc, facts.deep_gemm, facts.selector, facts.fingerprint, facts.vllm_import)
    return min((one.kept_from for one in kept if one.kept_from is not None), default=None)


def undetermined(
    facts: Facts, found: Finding, *, target: Target | None = None, model: ModelInfo | None = None
) -> Verdict:
    """Return a verdict in which nothing could be judged, because of `found`."""
    layers = tuple(
        Layer(number=number, layer=name, state="unknown", reason=found.summary, finding_ids=(found.id,))
        for name, number in LAYER_NUMBERS.items()
    )
    return Verdict(
        dsa_doctor_version=__version__,
        target=target_info(target) if target is not None else None,
        model=model,
        software=software_info(facts),
        layers=layers,
        findings=(found,),
        backends=(),
        kept_from=kept_from(facts),
        exit_code=exit_code_of(layers),
    )


def _look_up(facts: Facts, query: SelectorQuery) -> SelectorAnswer | None:
    answers = facts.selector.value.answers if facts.selector.value is not None else ()
    return next((answer for answer in answers if answer.query == query and not answer.broke), None)


def _not_dsa(facts: Facts, model: ModelGeometry, target: Target, request: Request) -> Verdict:
    summary = f"{model.name} uses no DeepSeek Sparse Attention, so none of the three layers concerns it."
    evidence = (f"architecture {model.architecture}, no index_topk in its configuration ({model.source})",)
    remedy = ("dsa-doctor models   # lists the DSA models that are known by name",)
    found = finding("DSA912", "skip", summary, evidence=evidence, remedy=remedy)
    return undetermined(facts, found, target=target, model=model_info(model, request))


def _no_vllm(facts: Facts, model: ModelGeometry, target: Target, request: Request) -> Verdict:
    summary = "vLLM is not installed in this environment, so there is nothing to judge."
    remedy = (
        "pip install vllm   # or run this check where vLLM is installed",
        "dsa-doctor check --facts FILE   # judges another machine",
    )
    found = finding("DSA908", "unknown", summary, remedy=remedy)
    return undetermined(facts, found, target=target, model=model_info(model, request))


def _with_blockers(layers: tuple[Layer, ...], runtime: tuple[Finding, ...]) -> tuple[Layer, ...]:
    """Name the failing Triton findings in the indexer layer as well: they are what fails there next."""
    blockers = tuple(one.id for one in runtime if one.id in {"DSA901", "DSA913"} and one.status == "fail")
    return tuple(
        layer.model_copy(update={"finding_ids": tuple(dict.fromkeys((*layer.finding_ids, *blockers)))})
        if layer.layer == "indexer" and layer.state == "unresolved"
        else layer
        for layer in layers
    )


def _once(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(dict.fromkeys(findings))


__all__ = ["Judged", "judged", "judgement_of", "resolve", "resolve_case", "undetermined"]
