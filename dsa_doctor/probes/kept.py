"""The slow probes behind a keeper: what an earlier run was told is not asked again while it still holds."""

import time
from collections.abc import Sequence
from typing import Any

from dsa_doctor.cache import Keeper, Trace
from dsa_doctor.facts.observation import Fact, Observation
from dsa_doctor.facts.schema import (
    Csrc,
    DeepGemm,
    Fingerprint,
    Selector,
    SelectorAnswer,
    SelectorQuery,
    ServeOptions,
)
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
    """What vLLM has answered so far in one environment."""

    version: str
    flashinfer_usable: bool | None
    answers: tuple[SelectorAnswer, ...]
    serve_options: ServeOptions | None = None

    def selector(self, queries: Sequence[SelectorQuery], *, serve_options: bool) -> Selector | None:
        """Return the answers to these questions, or None where one of them was never asked."""
        known = {answer.query: answer for answer in self.answers}
        if any(query not in known for query in queries) or (serve_options and self.serve_options is None):
            return None
        told = self.serve_options if serve_options else None
        return Selector(
            answers=tuple(known[query] for query in queries),
            flashinfer_usable=self.flashinfer_usable,
            serve_options=Observation[ServeOptions].ok(told) if told is not None else None,
        )

    def with_more(self, observed: Selector) -> "KeptAnswers":
        """Return these answers and those of a later run, which count where both have one."""
        answers = {answer.query: answer for answer in (*self.answers, *observed.answers)}
        told = observed.serve_options.value if observed.serve_options is not None else None
        return self.model_copy(
            update={
                "answers": tuple(answers.values()),
                "flashinfer_usable": observed.flashinfer_usable,
                "serve_options": told or self.serve_options,
            }
        )


def kept_selector(
    keeper: Keeper | None,
    environment: Environment,
    queries: Sequence[SelectorQuery],
    *,
    serve_options: bool = False,
    **options: Any,
) -> tuple[Observation[Selector], Observation[str]]:
    """Return what `selector.probe` observes; only questions that no earlier run has asked are put to vLLM.

    Args:
        keeper: gives and takes the answers.
        environment: as for `selector.probe`.
        queries: the questions.
        serve_options: whether the options of `vllm serve` are asked for too.
        options: plugins and unloadable, as for `selector.probe`.
    """
    if keeper is None:
        return selector.probe(environment, queries, serve_options=serve_options, **options)
    question = {
        "probe": "selector",
        "plugins": list(options.get("plugins", ())),
        "unloadable": options.get("unloadable", "host"),
    }
    entry = keeper.read(environment, question, KeptAnswers)
    kept = entry.value if entry is not None else None
    if entry is not None and kept is not None:
        whole = kept.selector(queries, serve_options=serve_options)
        if whole is not None:
            since = {"kept_from": entry.made}
            return (
                Observation[Selector].ok(whole).model_copy(update=since),
                Observation[str].ok(kept.version).model_copy(update=since),
            )
    known = {answer.query for answer in kept.answers} if kept is not None else set()
    missing = [query for query in dict.fromkeys(queries) if query not in known]
    asks_options = serve_options and (kept is None or kept.serve_options is None)
    trace, started = Trace(), time.time_ns()
    observed, imported = selector.probe(environment, missing, trace=trace, serve_options=asks_options, **options)
    if observed.value is None or imported.value is None:
        return observed, imported
    before = kept or KeptAnswers(version=imported.value, flashinfer_usable=None, answers=())
    merged = before.with_more(observed.value)
    if not any(answer.broke for answer in observed.value.answers):
        if entry is not None:
            trace.files.update(entry.paths())
            trace.variables.update(entry.variables)
        made = entry.made if entry is not None else None
        keeper.write(environment, question, KeptAnswers, merged, trace, started_ns=started, made=made)
    value = merged.selector(queries, serve_options=False)
    if value is None:  # it answered less than it was asked
        return observed, imported
    told = observed.value.serve_options
    if serve_options and told is None and merged.serve_options is not None:
        told = Observation[ServeOptions].ok(merged.serve_options)
    reused = entry is not None and (len(missing) < len(set(queries)) or (serve_options and not asks_options))
    update = {
        "value": value.model_copy(update={"serve_options": told}),
        "kept_from": entry.made if entry is not None and reused else None,
    }
    return observed.model_copy(update=update), imported


__all__ = ["KeptAnswers", "kept_csrc", "kept_deep_gemm", "kept_fingerprint", "kept_selector"]
