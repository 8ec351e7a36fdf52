"""Asks the installed vLLM's own attention backend selector, in a subprocess, with a target's capability in force.

The selector that runs is vLLM's, with its configuration classes and its backends' validations; only the device's
answers are replaced (see `dsa_doctor.compat.emulation`). No plugin is loaded unless it is named: without, the answer
is that of a stock vLLM.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal

from dsa_doctor.cache.trace import Trace
from dsa_doctor.compat import emulation
from dsa_doctor.compat.serve_options import SERVE_PARSERS
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import BackendCandidate, Selector, SelectorAnswer, SelectorQuery, ServeOptions
from dsa_doctor.probes.child import ChildResult, ask
from dsa_doctor.probes.environment import Environment
from dsa_doctor.processes.child import scratch_folder
from dsa_doctor.redaction import redact

TIMEOUT_SECONDS = 180.0
"""A cold import of vLLM from a slow disk takes a minute; nothing healthy takes three."""

_WRITING = (
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "VLLM_CACHE_ROOT",
    "VLLM_CONFIG_ROOT",
    "FLASHINFER_WORKSPACE_BASE",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
)
"""Where vLLM and what it imports would write; all of it goes to a folder that is removed."""


def probe(
    environment: Environment,
    queries: Sequence[SelectorQuery],
    *,
    timeout: float = TIMEOUT_SECONDS,
    plugins: Sequence[str] = (),
    unloadable: Literal["host", "any"] = "host",
    trace: Trace | None = None,
    serve_options: bool = False,
) -> tuple[Observation[Selector], Observation[str]]:
    """Return vLLM's answers to `queries`, and the version it reports on import or why it cannot be imported.

    Args:
        environment: where vLLM is looked for, and the interpreter that runs it.
        queries: the questions; all are answered by one import of vLLM.
        timeout: seconds after which the child is killed.
        plugins: names of the vllm.general_plugins to load first; none gives the answers of a stock vLLM.
        unloadable: see `emulation.install`; "any" is for unpacked wheels whose compiled modules are placeholders.
        trace: filled with what the child loaded.
        serve_options: whether the options of `vllm serve` are asked for too.
    """
    if environment.package_dir("vllm") is None:
        return Observation[Selector].absent("vllm is not installed"), Observation[str].absent("vllm is not installed")
    request = {
        "emulation": emulation.__file__,
        "queries": [query.model_dump() for query in queries],
        "plugins": list(plugins),
        "unloadable": unloadable,
        "timeout": timeout,
        "serve_parsers": list(SERVE_PARSERS) if serve_options else [],
    }
    with scratch_folder("dsa-doctor-") as scratch:
        variables: dict[str, str | None] = {
            **dict.fromkeys(_WRITING, os.fspath(scratch)),
            # Asked is whether the architecture is supported: the indexer calls DeepGEMM whatever this switch says.
            "VLLM_USE_DEEP_GEMM": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_PLUGINS": ",".join(plugins),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        result = ask(environment, "selector.py", request, timeout=timeout, variables=variables, trace=trace)
    return _observations(environment, queries, result)


def _observations(
    environment: Environment, queries: Sequence[SelectorQuery], result: ChildResult
) -> tuple[Observation[Selector], Observation[str]]:
    if result.status != "answered":
        evidence = tuple(_clean(environment, line) for line in result.evidence)
        return (
            Observation[Selector].unknown(result.cause, evidence=evidence, seconds=result.seconds),
            Observation[str].unknown(result.cause, evidence=evidence, seconds=result.seconds),
        )
    version, failure = result.answer["version"], result.answer["failure"]
    seconds = result.seconds
    if failure is None:
        answers = tuple(
            _answer(environment, query, raw) for query, raw in zip(queries, result.answer["answers"], strict=True)
        )
        selector = Selector(
            answers=answers,
            flashinfer_usable=result.answer["flashinfer"],
            serve_options=_serve_options(environment, result.answer.get("serve_options")),
        )
        return Observation[Selector].ok(selector, seconds=seconds), Observation[str].ok(version, seconds=seconds)
    evidence = tuple(
        _clean(environment, line) for part in failure["evidence"] for line in part.rstrip().splitlines() if line.strip()
    )[-6:]
    cause = _clean(environment, failure["cause"])
    if failure["stage"] == "import":
        cause = f"vllm cannot be imported: {cause}"
        return (
            Observation[Selector].absent(cause, evidence=evidence, seconds=seconds),
            Observation[str].absent(cause, evidence=evidence, seconds=seconds),
        )
    imported = Observation[str].ok(version, seconds=seconds)
    if failure["stage"] == "platform":
        cause = f"vLLM's CUDA platform cannot be imported: {cause}"
        return Observation[Selector].absent(cause, evidence=evidence, seconds=seconds), imported
    cause = f"this vLLM's selector is not recognised: {cause}"
    return Observation[Selector].unknown(cause, evidence=evidence, seconds=seconds), imported


def _serve_options(environment: Environment, raw: dict[str, Any] | None) -> Observation[ServeOptions] | None:
    if raw is None:
        return None
    if "options" not in raw:
        return Observation[ServeOptions].unknown(f"vLLM's parser cannot be built: {_clean(environment, raw['error'])}")
    return Observation[ServeOptions].ok(ServeOptions.model_validate(raw))


def _answer(environment: Environment, query: SelectorQuery, raw: dict[str, Any]) -> SelectorAnswer:
    candidates = tuple(
        BackendCandidate(
            name=one["name"],
            accepted=one["accepted"],
            reasons=tuple(_clean(environment, reason) for reason in one["reasons"]),
        )
        for one in raw["candidates"]
    )
    return SelectorAnswer(
        query=query,
        chosen=raw["chosen"],
        candidates=candidates,
        error=None if raw["error"] is None else _clean(environment, raw["error"]),
        broke=raw["broke"],
        kv_cache_dtype=raw.get("kv_cache_dtype"),
        block_size=raw.get("block_size"),
        deep_gemm_supported=raw.get("deep_gemm_supported"),
        assumed=tuple(raw["assumed"]),
    )


def _clean(environment: Environment, text: str) -> str:
    """Write paths relative to the search path, and keep user and host names out."""
    return redact(environment.shorten(text))


__all__ = ["TIMEOUT_SECONDS", "probe"]
