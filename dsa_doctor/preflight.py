"""Gather, then resolve: the whole of `dsa-doctor check` but for its output. `run-model` starts with the same call."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsa_doctor.cache import Keeper
from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK, vllm_minimum
from dsa_doctor.catalog.lookup import NamedModel, look_up
from dsa_doctor.catalog.models import DEFAULT_MODEL, KNOWN_MODELS
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts, GpuInventory, SelectorQuery
from dsa_doctor.inputs import Options, UsageError, load_facts, named_target, request_for, targets_of, with_memory
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.gather import gather, visible_gpus
from dsa_doctor.probes.kept import kept_fingerprint, kept_selector
from dsa_doctor.reading import one_line
from dsa_doctor.resolver import Case, Request, RequestError, Target, query_for, resolve_case
from dsa_doctor.resolver.judgement import finding
from dsa_doctor.resolver.resolve import undetermined
from dsa_doctor.verdict.schema import Verdict

_MATRIX_RANKS = (1, 2, 4, 8, 16)
_MATRIX_KV_CACHE_DTYPES = ("auto", "bfloat16", "fp8", "fp8_ds_mla")


def preflight(
    model_text: str | None,
    options: Options,
    *,
    facts_file: Path | None = None,
    environment: Environment | None = None,
    keeper: Keeper | None = None,
) -> Verdict:
    """Judge one model on one target, or on this machine's GPUs; see `judge_fleet`."""
    models = [model_text] if model_text is not None else []
    targets = [options.target] if options.target is not None else []
    return judge_fleet(models, targets, options, facts_file=facts_file, environment=environment, keeper=keeper)[0]


def judge_fleet(
    models: Sequence[str],
    targets: Sequence[str],
    options: Options,
    *,
    facts_file: Path | None = None,
    environment: Environment | None = None,
    keeper: Keeper | None = None,
) -> list[Verdict]:
    """Return one verdict per model and target, models outermost; vLLM is imported once, however many there are.

    Without a target this machine's GPUs are judged (or those of the facts), the worst case where they differ.

    Args:
        models: as for MODEL; empty judges the default model.
        targets: as for --target; empty judges this machine's GPUs.
        options: the rest of the options; its target is not looked at.
        facts_file: judge these facts instead of gathering.
        environment: Python environment to examine; None is the running one.
        keeper: gives and takes answers that an earlier run got; None asks everything anew.

    Raises:
        UsageError: an option cannot be met.
    """
    return judge_with_facts(models, targets, options, facts_file=facts_file, environment=environment, keeper=keeper)[0]


def judge_with_facts(
    models: Sequence[str | NamedModel],
    targets: Sequence[str],
    options: Options,
    *,
    facts_file: Path | None = None,
    environment: Environment | None = None,
    keeper: Keeper | None = None,
    serve_options: bool = False,
    inventory: Observation[GpuInventory] | None = None,
) -> tuple[list[Verdict], Facts]:
    """Return the verdicts of `judge_fleet` and the facts that they rest on.

    The arguments are those of `judge_fleet`. Models may be looked up already. With `serve_options` the facts hold the
    options of `vllm serve` too, where vLLM is asked anything. An `inventory` of this machine's GPUs saves asking again.
    """
    given = load_facts(facts_file) if facts_file is not None else None
    named: list[Target | None] = [named_target(text) for text in targets] or [None]
    if not targets and inventory is None:
        inventory = given.gpus if given is not None else visible_gpus()
    found = targets_of(inventory, from_file=given is not None) if inventory is not None and not targets else []
    looked_up = [look_up(one) if isinstance(one, str) else one for one in models or [DEFAULT_MODEL]]
    try:
        combinations = [_combination(model, target, found, options) for model in looked_up for target in named]
        queries = {case.query: None for one in combinations for case in one.cases if case.model.uses_dsa}
        facts = given or gather_with(
            environment or Environment.current(),
            tuple(queries) or None,
            keeper=keeper,
            serve_options=serve_options,
            inventory=inventory,
        )
        verdicts = []
        for one in combinations:
            if one.model.geometry is None:
                remedy = ("dsa-doctor models   # lists the known ones",)
                problem = finding("DSA910", "unknown", one.model.problem, remedy=remedy)
                verdicts.append(undetermined(facts, problem, target=one.named))
                continue
            judged = [resolve_case(facts, case) for case in one.cases]
            verdicts.append(max(judged, key=_gravity) if judged else _no_target(facts))
    except RequestError as error:
        raise UsageError(str(error)) from error
    named_verdicts = [
        verdict if verdict.model is not None else verdict.model_copy(update={"asked": one_line(one.model.text)})
        for verdict, one in zip(verdicts, combinations, strict=True)
    ]
    if given is not None:
        named_verdicts = [verdict.model_copy(update={"from_file": True}) for verdict in named_verdicts]
    return named_verdicts, facts


def gather_with(
    environment: Environment,
    queries: Iterable[SelectorQuery] | None,
    *,
    keeper: Keeper | None = None,
    serve_options: bool = False,
    inventory: Observation[GpuInventory] | None = None,
) -> Facts:
    """Gather all facts of an environment.

    Args:
        environment: what is examined.
        queries: asked of vLLM's selector; None leaves vLLM unimported.
        keeper: gives and takes answers that an earlier run got; None asks everything anew.
        serve_options: whether vLLM is asked for the options of `vllm serve` too.
        inventory: this machine's GPUs, where they were looked at already.
    """
    ask = (
        partial(kept_selector, keeper, queries=tuple(queries), serve_options=serve_options)
        if queries is not None
        else None
    )
    sources = partial(kept_fingerprint, keeper)
    return gather(environment, selector=ask, fingerprint=sources, keeper=keeper, inventory=inventory)


def query_matrix() -> tuple[SelectorQuery, ...]:
    """Return the questions whose answers a facts file holds: every capability, and every known model's shapes."""
    queries = [
        query_for(known.geometry(), capability, Request(tensor_parallel_size=ranks, kv_cache_dtype=dtype))
        for capability in sorted(SHARED_MEMORY_PER_BLOCK)
        if capability >= vllm_minimum()
        for known in KNOWN_MODELS
        if known.geometry().compression is None  # those pick their attention class themselves
        for dtype in _MATRIX_KV_CACHE_DTYPES
        for ranks in _MATRIX_RANKS
    ]
    return tuple(dict.fromkeys(queries))


@dataclass(frozen=True)
class _Combination:
    """One model on one GPU the user named, or on this machine's."""

    named: Target | None
    model: NamedModel
    cases: tuple[Case, ...]


def _combination(model: NamedModel, named: Target | None, found: list[Target], options: Options) -> _Combination:
    geometry = model.geometry
    if geometry is None:
        return _Combination(named, model, ())
    targets = [with_memory(one, options.gpu_memory_gib) for one in ([named] if named is not None else found)]
    cases = (Case.of(geometry, target, request_for(geometry, target, options)) for target in targets)
    return _Combination(named, model, tuple(cases))


def _gravity(verdict: Verdict) -> tuple[bool, int]:
    return verdict.exit_code != 0, verdict.exit_code.bit_count()


def _no_target(facts: Facts) -> Verdict:
    remedy = ("dsa-doctor check MODEL --target a100", "dsa-doctor targets   # lists what --target accepts")
    if facts.gpus.status == "unknown":
        summary = f"The GPUs of this machine could not be read: {facts.gpus.cause}. Name one with --target."
        return undetermined(facts, finding("DSA915", "unknown", summary, evidence=facts.gpus.evidence, remedy=remedy))
    hidden = facts.gpus.value is not None and facts.gpus.value.gpus
    what = "CUDA_VISIBLE_DEVICES hides every GPU of this machine" if hidden else "This machine has no NVIDIA GPU"
    summary = f"{what}, and no --target was given, so there is nothing to judge for."
    return undetermined(facts, finding("DSA911", "unknown", summary, evidence=facts.gpus.evidence, remedy=remedy))
