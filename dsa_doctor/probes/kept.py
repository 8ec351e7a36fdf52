"""The slow probes behind a keeper: what an earlier run was told is not asked again while it still holds."""

import time
from collections.abc import Sequence
from typing import Any

from dsa_doctor.cache import Keeper, Trace
from dsa_doctor.facts.observation import Fact, Observation
from dsa_doctor.facts.schema import Csrc, DeepGemm, Fingerprint, Selector, SelectorAnswer, SelectorQuery
from dsa_doctor.probes import csrc, deep_gemm, fingerprint, selector
from dsa_doctor.probes.environment import Environment


def kept_csrc(keeper: Keeper | None, environment: Environment) -> Observation[Csrc]:
    """Return what `csrc.probe` observes, or observed."""
    if keeper is None:
        return csrc.probe(environment)
    return keeper.observation("csrc", environment, Csrc, lambda trace: csrc.probe(environment, trace))


def kept_deep_gemm(keeper: Keeper | None, environment: Environment) -> Observation[DeepGemm]:
    """Return what `deep_gemm.probe` observes, or observed."""
    if keeper is None:
        return deep_gemm.probe(environment)
    return keeper.observation("deep_gemm", environment, DeepGemm, lambda trace: deep_gemm.probe(environment, trace))


def kept_fingerprint(keeper: Keeper | None, environment: Environment) -> Observation[Fingerprint]:
    """Return what `fingerprint.probe` observes, or observed."""
    if keeper is None:
        return fingerprint.probe(environment)
    return keeper.observation("fingerprint", environment, Fingerprint, lambda _: fingerprint.probe(environment))


class KeptAnswers(Fact):
    """What vLLM's selector has answered so far in one environment."""

    version: str
    flashinfer_usable: bool | None
    answers: tuple[SelectorAnswer, ...]


def kept_selector(
    keeper: Keeper | None, environment: Environment, queries: Sequence[SelectorQuery], **options: Any
) -> tuple[Observation[Selector], Observation[str]]:
    """Return what `selector.probe` observes; only questions that no earlier run has asked are put to vLLM.

    Args:
        keeper: gives and takes the answers.
        environment: as for `selector.probe`.
        queries: the questions, at least one.
        options: plugins and unloadable, as for `selector.probe`.
    """
    if keeper is None:
        return selector.probe(environment, queries, **options)
    question = {
        "probe": "selector",
        "plugins": list(options.get("plugins", ())),
        "unloadable": options.get("unloadable", "host"),
    }
    entry = keeper.read(environment, question, KeptAnswers)
    known = {answer.query: answer for answer in entry.value.answers} if entry is not None else {}
    missing = [query for query in dict.fromkeys(queries) if query not in known]
    trace, started = Trace(), time.time_ns()
    if entry is not None and not missing:
        kept = Selector(
            answers=tuple(known[query] for query in queries), flashinfer_usable=entry.value.flashinfer_usable
        )
        update = {"kept_from": entry.made}
        return (
            Observation[Selector].ok(kept).model_copy(update=update),
            Observation[str].ok(entry.value.version).model_copy(update=update),
        )
    observed, imported = selector.probe(environment, missing, trace=trace, **options)
    if observed.value is None or imported.value is None:
        return observed, imported
    known.update({answer.query: answer for answer in observed.value.answers})
    merged = Selector(
        answers=tuple(known[query] for query in queries), flashinfer_usable=observed.value.flashinfer_usable
    )
    if not any(answer.broke for answer in observed.value.answers):
        if entry is not None:
            trace.files.update(entry.paths())
            trace.variables.update(entry.variables)
        keeper.write(
            environment,
            question,
            KeptAnswers,
            KeptAnswers(
                version=imported.value, flashinfer_usable=merged.flashinfer_usable, answers=tuple(known.values())
            ),
            trace,
            started_ns=started,
            made=entry.made if entry is not None else None,
        )
    reused = entry is not None and any(query not in missing for query in queries)
    since = entry.made if entry is not None and reused else None
    return observed.model_copy(update={"value": merged, "kept_from": since}), imported


__all__ = ["KeptAnswers", "kept_csrc", "kept_deep_gemm", "kept_fingerprint", "kept_selector"]
