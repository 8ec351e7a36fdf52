"""Gather, then resolve: the whole of `dsa-doctor check` but for its output. `run-model` starts with the same call."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK, vllm_minimum
from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.lookup import UnknownModelError, find_geometry
from dsa_doctor.catalog.models import DEFAULT_MODEL, KNOWN_MODELS
from dsa_doctor.catalog.targets import target_from_text
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import FACTS_SCHEMA_VERSION, Facts, Gpu, GpuInventory, SelectorQuery
from dsa_doctor.probes import fingerprint, gpus, selector
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.gather import gather
from dsa_doctor.resolver import Request, Target, query_for, resolve
from dsa_doctor.resolver.judgement import finding
from dsa_doctor.resolver.request import PLUGIN_MODES, PluginMode
from dsa_doctor.resolver.resolve import undetermined
from dsa_doctor.verdict.schema import Verdict


class UsageError(ValueError):
    """What the user asked for cannot be done as asked; the message names the option and what is accepted."""


DEFAULT_TENSOR_PARALLEL_SIZE = 8
"""Where no GPU of this machine is judged: the usual node."""

_MATRIX_RANKS = (1, 2, 4, 8, 16)
_MATRIX_KV_CACHE_DTYPES = ("auto", "bfloat16", "fp8", "fp8_ds_mla")


@dataclass(frozen=True)
class Options:
    """Options of `check` and `run-model` that shape the judgement.

    Attributes:
        target: what the user typed for --target; None judges the GPUs of the facts.
        tensor_parallel_size: None takes the number of visible GPUs, or 8 for a target elsewhere.
        kv_cache_dtype: as for vLLM's --kv-cache-dtype.
        backend: an attention backend asked for by name.
        plugin_mode: as DSA_DOCTOR_PLUGIN.
    """

    target: str | None = None
    tensor_parallel_size: int | None = None
    kv_cache_dtype: str = "auto"
    backend: str | None = None
    plugin_mode: PluginMode = "auto"


def preflight(
    model_text: str | None,
    options: Options,
    *,
    facts_file: Path | None = None,
    environment: Environment | None = None,
) -> Verdict:
    """Judge a model on a target, or on this machine's GPUs; with several kinds of GPU, the worst case.

    Args:
        model_text: what the user typed for MODEL; None judges the default model.
        options: see Options.
        facts_file: judge these facts instead of gathering.
        environment: Python environment to examine; None is the running one.

    Raises:
        UsageError: an option cannot be met.
    """
    environment = environment or Environment.current()
    given = load_facts(facts_file) if facts_file is not None else None
    named = _named_target(options.target)
    try:
        model = find_geometry(model_text or DEFAULT_MODEL)
    except UnknownModelError as error:
        facts = given or gather_with(environment, None)
        remedy = ("dsa-doctor models   # lists the known ones",)
        return undetermined(facts, finding("DSA910", "unknown", str(error), remedy=remedy), target=named)
    inventory = given.gpus if given is not None else gpus.probe()
    targets = [named] if named is not None else _targets(inventory, from_file=given is not None)
    try:
        cases = [(target, _request(model, target, options)) for target in targets]
        queries = [query_for(model, target.parsed, request) for target, request in cases]
        facts = given or gather_with(environment, queries if model.uses_dsa and queries else None)
        verdicts = [resolve(facts, model=model, target=target, request=request) for target, request in cases]
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not verdicts:
        return _no_target(facts)
    return max(verdicts, key=lambda verdict: (verdict.exit_code != 0, verdict.exit_code.bit_count()))


def plugin_mode_from(text: str | None) -> PluginMode:
    """Return the plugin's mode from the value of DSA_DOCTOR_PLUGIN; unset and empty mean auto.

    Raises:
        UsageError: the value is not accepted.
    """
    value = (text or "auto").strip().lower()
    for mode in PLUGIN_MODES:
        if value == mode:
            return mode
    raise UsageError(f"DSA_DOCTOR_PLUGIN={text!r} is not accepted. Accepted: {', '.join(PLUGIN_MODES)}.")


def load_facts(path: Path) -> Facts:
    """Read a facts file.

    Raises:
        UsageError: the file cannot be read, is not JSON, or is not a facts file of a schema this version reads.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--facts {path}: cannot be read ({type(error).__name__}: {error})") from error
    try:
        facts = Facts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise UsageError(
            f"--facts {path}: not a facts file ({where}: {first['msg']}). "
            "Make one with `dsa-doctor facts > facts.json`."
        ) from error
    if facts.schema_version.split(".")[0] != FACTS_SCHEMA_VERSION.split(".")[0]:
        raise UsageError(
            f"--facts {path}: schema version {facts.schema_version}; this dsa-doctor reads {FACTS_SCHEMA_VERSION}. "
            "Gather the facts again, or use the dsa-doctor that wrote them."
        )
    return facts


def gather_with(environment: Environment, queries: Iterable[SelectorQuery] | None) -> Facts:
    """Gather all facts of an environment; `queries` None leaves vLLM unimported and its selector unasked."""
    ask = partial(selector.probe, queries=tuple(queries)) if queries is not None else None
    return gather(environment, selector=ask, fingerprint=fingerprint.probe)


def query_matrix() -> tuple[SelectorQuery, ...]:
    """Return the questions whose answers a facts file holds: every capability, and every known model's shapes."""
    queries = [
        query_for(known.geometry(), capability, Request(tensor_parallel_size=ranks, kv_cache_dtype=dtype))
        for capability in sorted(SHARED_MEMORY_PER_BLOCK)
        if capability >= vllm_minimum()
        for known in KNOWN_MODELS
        for dtype in _MATRIX_KV_CACHE_DTYPES
        for ranks in _MATRIX_RANKS
    ]
    return tuple(dict.fromkeys(queries))


def _named_target(text: str | None) -> Target | None:
    if text is None:
        return None
    try:
        gpu = target_from_text(text)
    except ValueError as error:
        raise UsageError(str(error)) from error
    memory = gpu.memory_gib * 2**30 if gpu.memory_gib is not None else None
    return Target(name=gpu.name, capability=str(gpu.capability), source="--target", memory_bytes=memory)


def _targets(inventory: Observation[GpuInventory], *, from_file: bool) -> list[Target]:
    """Return one target per kind of visible GPU; none where there is no GPU."""
    visible = [gpu for gpu in inventory.value.gpus if gpu.visible] if inventory.value is not None else []
    kinds: dict[str, Gpu] = {}
    for gpu in visible:
        kinds.setdefault(gpu.capability, gpu)
    return [
        Target(
            name=gpu.name,
            capability=capability,
            source="facts file" if from_file else "this machine",
            count=len(visible),
            memory_bytes=gpu.memory_bytes,
        )
        for capability, gpu in kinds.items()
    ]


def _request(model: ModelGeometry, target: Target, options: Options) -> Request:
    heads, ranks = model.num_attention_heads, options.tensor_parallel_size
    if ranks is None:
        available = target.count or DEFAULT_TENSOR_PARALLEL_SIZE
        ranks = max(one for one in range(1, min(available, heads) + 1) if heads % one == 0)
    return Request(
        tensor_parallel_size=ranks,
        kv_cache_dtype=options.kv_cache_dtype,
        backend=options.backend.upper() if options.backend else None,
        plugin_mode=options.plugin_mode,
    )


def _no_target(facts: Facts) -> Verdict:
    remedy = ("dsa-doctor check MODEL --target a100", "dsa-doctor targets   # lists what --target accepts")
    if facts.gpus.status == "unknown":
        summary = f"The GPUs of this machine could not be read: {facts.gpus.cause}. Name one with --target."
        return undetermined(facts, finding("DSA915", "unknown", summary, evidence=facts.gpus.evidence, remedy=remedy))
    hidden = facts.gpus.value is not None and facts.gpus.value.gpus
    what = "CUDA_VISIBLE_DEVICES hides every GPU of this machine" if hidden else "This machine has no NVIDIA GPU"
    summary = f"{what}, and no --target was given, so there is nothing to judge for."
    return undetermined(facts, finding("DSA911", "unknown", summary, evidence=facts.gpus.evidence, remedy=remedy))
