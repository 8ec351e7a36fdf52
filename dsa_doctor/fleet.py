"""Judges several models on several GPUs from one gathering of facts: vLLM is imported once, however many there are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.lookup import UnknownModelError, find_geometry
from dsa_doctor.catalog.models import DEFAULT_MODEL
from dsa_doctor.preflight import (
    Options,
    UsageError,
    _named_target,
    _no_target,
    _request,
    _targets,
    gather_with,
    load_facts,
    preflight,
)
from dsa_doctor.probes import gpus
from dsa_doctor.probes.environment import Environment
from dsa_doctor.resolver import Request, Target, query_for, resolve
from dsa_doctor.resolver.judgement import finding
from dsa_doctor.resolver.resolve import undetermined
from dsa_doctor.verdict.schema import Verdict


@dataclass(frozen=True)
class _Combination:
    """One model on one GPU the user named, or on this machine's."""

    named: Target | None
    model: ModelGeometry | None
    problem: str
    cases: tuple[tuple[Target, Request], ...]


def judge_fleet(
    models: Sequence[str],
    targets: Sequence[str],
    options: Options,
    *,
    facts_file: Path | None = None,
    environment: Environment | None = None,
) -> list[Verdict]:
    """Return one verdict per model and target, models outermost, each as `preflight` gives it.

    Args:
        models: as for MODEL; empty judges the default model.
        targets: as for --target; empty judges this machine's GPUs.
        options: the rest of the options; its target is not looked at.
        facts_file: judge these facts instead of gathering.
        environment: Python environment to examine; None is the running one.

    Raises:
        UsageError: an option cannot be met.
    """
    if len(models) <= 1 and len(targets) <= 1:
        alone = replace(options, target=targets[0] if targets else None)
        return [preflight(models[0] if models else None, alone, facts_file=facts_file, environment=environment)]
    given = load_facts(facts_file) if facts_file is not None else None
    named: list[Target | None] = [_named_target(text) for text in targets] or [None]
    found = _targets((given.gpus if given else gpus.probe()), from_file=given is not None) if not targets else []
    combinations = [
        _combination(text, target, found, options) for text in models or [DEFAULT_MODEL] for target in named
    ]
    try:
        queries = {
            query_for(one.model, target.parsed, request): None
            for one in combinations
            if one.model is not None and one.model.uses_dsa
            for target, request in one.cases
        }
        facts = given or gather_with(environment or Environment.current(), tuple(queries) or None)
        verdicts = []
        for one in combinations:
            if one.model is None:
                remedy = ("dsa-doctor models   # lists the known ones",)
                problem = finding("DSA910", "unknown", one.problem, remedy=remedy)
                verdicts.append(undetermined(facts, problem, target=one.named))
                continue
            judged = [resolve(facts, model=one.model, target=target, request=request) for target, request in one.cases]
            verdicts.append(max(judged, key=_gravity) if judged else _no_target(facts))
    except ValueError as error:
        raise UsageError(str(error)) from error
    return verdicts


def _combination(text: str, named: Target | None, found: list[Target], options: Options) -> _Combination:
    try:
        model = find_geometry(text)
    except UnknownModelError as error:
        return _Combination(named, None, str(error), ())
    targets = [named] if named is not None else found
    return _Combination(named, model, "", tuple((target, _request(model, target, options)) for target in targets))


def _gravity(verdict: Verdict) -> tuple[bool, int]:
    return verdict.exit_code != 0, verdict.exit_code.bit_count()
