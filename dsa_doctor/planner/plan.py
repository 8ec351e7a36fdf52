"""The memory plan: does a model fit on these GPUs, with what context, and what each line costs.

Pure functions of a model's geometry, the hardware and the options. Bytes are per GPU, of the fullest pipeline stage.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import floor
from typing import get_args

from pydantic import Field

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.facts.observation import Fact
from dsa_doctor.planner.cache import Pool, pool_of, stage_caches, token_bytes
from dsa_doctor.planner.checkpoint import Checkpoint, configured_size
from dsa_doctor.planner.estimates import (
    GIB,
    activation_bytes,
    certain_activation_bytes,
    fixed_bytes,
    graph_bytes,
    usable_bytes,
)
from dsa_doctor.planner.families.base import CacheOptions
from dsa_doctor.planner.parallel import (
    HUGE_PAGES,
    Parallel,
    TablePlace,
    part_bytes,
    problems_of,
    rank_bytes,
    stage_weights,
    table_bytes,
)
from dsa_doctor.planner.storage import Label, lowest, storage_of
from dsa_doctor.planner.weights import Part

MINIMUM_CONTEXT = 1024
"""Tokens of context below which a launch is not called a fit where the user asked for none in particular."""
COMFORTABLE_CONTEXT = 32768
DEFAULT_UTILIZATION = 0.92
"""vLLM's default for --gpu-memory-utilization since 0.26."""

_LARGE_GPU = 70 * GIB
_HUGE_GPU = 160 * GIB


class Hardware(Fact):
    """GPUs of one kind, the same number in every node."""

    name: str
    gpus_per_node: int = Field(ge=1)
    nodes: int = Field(default=1, ge=1)
    memory_bytes: int | None = Field(default=None, ge=0)
    """Memory of one GPU as its driver reports it; None where it is not known."""
    free_bytes: int | None = Field(default=None, ge=0)
    """Most that is free when a server starts, where the GPU shares the host's memory; None where it has its own."""
    host_memory_bytes: int | None = None
    """Memory of one node; None where it is not known."""


class PlanOptions(Fact):
    """What the launch asks for. None leaves a choice to the plan."""

    parallel: Parallel
    kv_cache_dtype: str = "auto"
    attention_backend: str = "auto"
    block_size: int = Field(default=64, ge=1)
    gpu_memory_utilization: float = Field(default=DEFAULT_UTILIZATION, gt=0, le=1)
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    cpu_offload_gib: float = Field(default=0.0, ge=0)
    enforce_eager: bool = False
    mtp: bool = False
    tables: TablePlace = "pinned"
    """Where n-gram tables lie (--engram-config)."""


class Line(Fact):
    """One line of the plan."""

    name: str
    bytes: int
    label: Label
    note: str = ""
    low_bytes: int | None = None
    """The least that it can be, where only a range is known; `bytes` is then the most."""


class Plan(Fact):
    """The memory plan of the fullest GPU."""

    model: str
    hardware: Hardware
    parallel: Parallel
    storage: str
    lines: tuple[Line, ...]
    """What the budget is spent on; they add up, with the KV cache, to the budget where the model fits."""
    budget_bytes: int | None
    """--gpu-memory-utilization times what torch can use; None where the memory is not known."""
    gpu_memory_utilization: float = DEFAULT_UTILIZATION
    """The share that the plan reckons with: what was asked for, less where the GPU shares the host's memory."""
    kv_cache_bytes: int | None
    """What is left for the KV cache; negative where even the weights do not fit."""
    kv_token_bytes: int
    """Bytes of one more token of context, on one GPU."""
    indexer_token_bytes: int
    """Part of kv_token_bytes."""
    kv_request_bytes: int = 0
    """Most bytes that one request of max_model_len holds: its tokens, and in hybrid models windows and states."""
    kv_label: Label = "exact"
    """Whether the sizes of the cache follow from the configuration."""
    assumed: tuple[str, ...] = ()
    """Keys that the configuration lacks and whose default was taken."""
    kv_tokens: int | None
    """Tokens that the KV cache holds, in requests of max_model_len."""
    max_model_len: int | None
    """Context to launch with: what was asked for, else the largest that fits."""
    native_context: int
    largest_context: int | None
    largest_batch: int | None
    """Sequences of max_model_len that the KV cache holds at once."""
    batched_tokens: int
    sequences: int
    sets_batch: bool = False
    """Whether the plan chose batched_tokens and sequences below vLLM's defaults: they must then be given to it."""
    fits: bool | None
    """None where the memory of the GPU is not known, or where an estimate or the range of the weights decides."""
    shortfall_bytes: int
    """Missing per GPU; 0 where it fits."""
    uncertain_bytes: int = 0
    """What of the estimated reserve, graphs and activations may not be needed."""
    estimates_decide: bool = False
    """Whether it fits without what is uncertain, and not with it."""
    disk_bytes: int
    """Of the checkpoint; the most that it can be where only a range is known."""
    disk_low_bytes: int | None = None
    """The least that the checkpoint can be, where only a range is known."""
    weights_doubts: tuple[str, ...] = ()
    """Why the bytes of the weights are estimated; empty where they are exact."""
    parameters: int
    mtp_parameters: int
    """Parameters of the MTP layers, counted separately: on disk always, on the GPUs only with speculative decoding."""
    host_bytes: int
    """Pinned host memory per node: what CPU offload takes, and tables that vLLM keeps there."""
    host_lines: tuple[Line, ...] = ()
    """Tables that vLLM keeps in pinned host memory, per node; not part of the GPU's budget."""
    problems: tuple[str, ...] = ()
    """Why vLLM would refuse these sizes whatever the memory."""


def default_batch(memory_bytes: int | None, gpu_name: str) -> tuple[int, int]:
    """Return vLLM's defaults for (--max-num-batched-tokens, --max-num-seqs) of a server on this GPU."""
    memory = usable_bytes(memory_bytes or 0)
    if memory >= _HUGE_GPU:
        return 16384, 1024
    if memory >= _LARGE_GPU and "a100" not in gpu_name.lower():
        return 8192, 1024
    return 2048, 256


def plan(model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None = None) -> Plan:
    """Return the memory plan; weights are counted from the configuration, or from a local checkpoint where given.

    Where the user left the batch open, vLLM's defaults are tried first and smaller ones after them, so that more memory
    never turns a fit into a misfit. Weights whose format is not fully known are counted at the most that they can be;
    whether they fit is said only where both ends of the range agree.
    """
    found = _judged(_at_one_size(model, hardware, options, checkpoint))
    storage, least = storage_of(model), lowest(model)
    if checkpoint is not None:
        return found
    found = found.model_copy(update={"weights_doubts": storage.reasons, "disk_low_bytes": _disk_low(model)})
    if least is model:
        return found
    low = _judged(_at_one_size(least, hardware, options, None))
    sizes = {line.name: line.bytes for line in low.lines}
    lines = tuple(
        line.model_copy(update={"low_bytes": sizes[line.name]})
        if sizes.get(line.name, line.bytes) < line.bytes
        else line
        for line in found.lines
    )
    fits = found.fits if found.fits == low.fits else None
    return found.model_copy(update={"lines": lines, "fits": fits})


def _judged(found: Plan) -> Plan:
    """Return a plan that says of a shortfall within the estimates that they decide, and not that it does not fit."""
    decide = not found.problems and 0 < found.shortfall_bytes <= found.uncertain_bytes
    return found.model_copy(update={"fits": None, "estimates_decide": True}) if decide else found


def _at_one_size(model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None) -> Plan:
    default = default_batch(hardware.memory_bytes, hardware.name)
    wanted = (options.max_num_batched_tokens, options.max_num_seqs)
    tiers = [default, *(one for one in ((2048, 256), (2048, 16), (1024, 4)) if one[0] <= default[0] and one != default)]
    batches = list(dict.fromkeys((wanted[0] or tokens, wanted[1] or sequences) for tokens, sequences in tiers))
    plans = [_plan_with(model, hardware, options, checkpoint, batch) for batch in batches]
    largest = max((one.largest_context or 0 for one in plans), default=0)
    enough = options.max_model_len or min(COMFORTABLE_CONTEXT, largest, _native_context(model))
    chosen = next((one for one in plans if one.fits and (one.max_model_len or 0) >= enough), None)
    if chosen is None:
        chosen = min(plans, key=lambda one: (not one.fits, one.shortfall_bytes))
    left_alone = (chosen.batched_tokens, chosen.sequences) == batches[0]
    return chosen.model_copy(
        update={
            "largest_context": largest if hardware.memory_bytes is not None else None,
            "sets_batch": not left_alone,
        }
    )


def _plan_with(
    model: ModelGeometry,
    hardware: Hardware,
    options: PlanOptions,
    checkpoint: Checkpoint | None,
    batch: tuple[int, int],
) -> Plan:
    problems = (
        *problems_of(model, options.parallel),
        *_memory_problems(hardware, options),
        *_host_problems(model, hardware, options),
        *_draft_problems(model, options, checkpoint),
    )
    stages = range(options.parallel.pipeline if options.parallel.pipeline <= model.num_hidden_layers else 1)
    parallel = options.parallel if len(stages) > 1 else options.parallel.model_copy(update={"pipeline": 1})
    spread = options.model_copy(update={"parallel": parallel})
    plans = [_stage_plan(model, hardware, spread, checkpoint, stage, batch) for stage in stages]
    # The stage with the least room decides: vLLM gives every stage the same number of KV blocks.
    worst = min(plans, key=lambda one: (-one.shortfall_bytes, one.kv_tokens if one.kv_tokens is not None else 0))
    fits = worst.fits if not problems else (None if worst.fits is None else False)
    return worst.model_copy(update={"parallel": options.parallel, "problems": problems, "fits": fits})


def _stage_plan(
    model: ModelGeometry,
    hardware: Hardware,
    options: PlanOptions,
    checkpoint: Checkpoint | None,
    stage: int,
    batch: tuple[int, int],
) -> Plan:
    parallel = options.parallel
    asked = CacheOptions(
        tensor=parallel.tensor,
        dtype=options.kv_cache_dtype,
        backend=options.attention_backend,
        block=options.block_size,
        drafts=1 if options.mtp else 0,
    )
    caches = stage_caches(model, parallel, stage, asked, mtp=options.mtp)
    pool = pool_of(caches)
    rows, indexer = token_bytes(caches)
    # Every batch that is scheduled but not settled keeps its blocks of a sliding window: one per stage, and one more.
    in_flight = (parallel.pipeline + 1) * batch[0]
    tables = table_bytes(model, parallel, stage, options.tables)
    static = _static_lines(model, hardware, options, checkpoint, stage)
    budget = _budget(hardware, options)
    native = _native_context(model)

    def activations(context: int) -> int:
        return activation_bytes(model, parallel, batched_tokens=batch[0], sequences=batch[1], max_model_len=context)

    taken = sum(line.bytes for line in static)

    def spare(context: int) -> int:
        """Return what is left after one sequence of `context` tokens; negative where it does not fit."""
        return (budget or 0) - taken - activations(context) - pool.request_bytes(context, in_flight)

    largest = _largest(native, pool, spare) if budget is not None else None
    context = options.max_model_len or largest or min(MINIMUM_CONTEXT, native)
    static.append(Line(name="activations", bytes=activations(context), label="estimated", note="vLLM's profile run"))
    shortfall = max(0, -spare(context)) if budget is not None else 0
    certain = certain_activation_bytes(model, batched_tokens=batch[0], max_model_len=context)
    estimated = fixed_bytes(parallel) + graph_bytes(eager=options.enforce_eager) + activations(context)
    uncertain = max(0, estimated - certain)
    left = budget - taken - activations(context) if budget is not None else None
    tokens = pool.token_capacity(max(0, left), context, in_flight) if left is not None else None
    host = _host_lines(hardware, parallel, tables, options.tables)
    parameters, mtp_parameters = _parameters(model)
    return Plan(
        model=model.name,
        hardware=hardware,
        parallel=parallel,
        storage=storage_of(model).name,
        lines=tuple(static),
        budget_bytes=budget,
        gpu_memory_utilization=_utilization(hardware, options),
        kv_cache_bytes=left,
        kv_token_bytes=rows + indexer,
        indexer_token_bytes=indexer,
        kv_request_bytes=pool.request_bytes(context, in_flight),
        kv_label="estimated" if model.assumed else "exact",
        assumed=model.assumed,
        kv_tokens=tokens,
        max_model_len=context,
        native_context=native,
        largest_context=largest,
        largest_batch=max(0, left) // pool.request_bytes(context, in_flight) if left is not None else None,
        batched_tokens=batch[0],
        sequences=batch[1],
        fits=None if budget is None else shortfall == 0,
        shortfall_bytes=shortfall,
        uncertain_bytes=uncertain,
        disk_bytes=checkpoint.disk_bytes if checkpoint is not None else configured_size(model).high,
        parameters=parameters,
        mtp_parameters=mtp_parameters,
        host_bytes=-min(0, *(line.bytes for line in static)) * hardware.gpus_per_node + sum(one.bytes for one in host),
        host_lines=host,
    )


def _host_lines(hardware: Hardware, parallel: Parallel, per_rank: int, place: TablePlace) -> tuple[Line, ...]:
    """Return the tables that vLLM keeps in the host's memory, per node; none where they count on the GPU."""
    if not per_rank or hardware.free_bytes is not None or place == "GPU":
        return ()
    ranks = min(hardware.gpus_per_node, parallel.tensor)
    note = "vLLM keeps n-gram tables in pinned host memory (EngramConfig.cpu_offload)"
    if place == "huge pages":
        note = "vLLM keeps n-gram tables in huge pages of the host (EngramConfig.use_thp)"
    elif parallel.data == 1:
        note += ", which torch takes in powers of two"
    return (Line(name="engram tables", bytes=per_rank * ranks, label="exact", note=note),)


def _static_lines(
    model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None, stage: int
) -> list[Line]:
    parallel = options.parallel
    label: Label = checkpoint.label if checkpoint is not None else storage_of(model).label
    if checkpoint is None and model.assumed:
        label = "estimated"
    count = part_bytes if checkpoint is None else checkpoint.part_bytes
    parts = count(model, parallel, stage, mtp=options.mtp)
    lines = [Line(name=f"weights: {part}", bytes=parts[part], label=label) for part in get_args(Part) if part in parts]
    tables = table_bytes(model, parallel, stage, options.tables)
    if tables and (hardware.free_bytes is not None or options.tables == "GPU"):
        note = (
            "--engram-config cpu_offload false"
            if options.tables == "GPU"
            else "in the host's memory, which is the GPU's"
        )
        lines.append(Line(name="engram tables", bytes=tables, label="exact", note=note))
    absorbed = _absorbed_bytes(model, options, stage)
    if absorbed:
        note = "bf16 copies of kv_b_proj that vLLM makes for decode"
        lines.append(Line(name="absorbed projections", bytes=absorbed, label="exact", note=note))
    unpacked = _unpacked_bytes(model, options, stage)
    if unpacked:
        note = "wo_a, which the plugin dequantises to bf16 when it is loaded; what it takes beyond its stored bytes"
        lines.append(Line(name="unpacked projections", bytes=unpacked, label=label, note=note))
    offloaded = _offloaded(model, options, stage)
    if offloaded:
        note = "--cpu-offload-gb keeps these weights in pinned host memory"
        lines.append(Line(name="offloaded to the host", bytes=-offloaded, label=label, note=note))
    note = "CUDA context" + (", collectives" if parallel.world_size > 1 else "")
    lines.append(Line(name="reserve", bytes=fixed_bytes(parallel), label="estimated", note=note))
    graphs = graph_bytes(eager=options.enforce_eager)
    if graphs:
        lines.append(Line(name="CUDA graphs", bytes=graphs, label="estimated"))
    return lines


@lru_cache(maxsize=256)
def _absorbed_bytes(model: ModelGeometry, options: PlanOptions, stage: int) -> int:
    """Return vLLM's W_UK_T and W_UV: bfloat16, heads of this rank, every layer of the stage."""
    if not model.kv_lora_rank:
        return 0
    layers = sum(
        1
        for _, weight in stage_weights(model, options.parallel, stage, mtp=options.mtp)
        if weight.name == "self_attn.kv_b_proj.weight"
    )
    heads = -(-model.num_attention_heads // options.parallel.tensor)
    return layers * heads * model.kv_lora_rank * (model.qk_nope_head_dim + model.v_head_dim) * 2


@lru_cache(maxsize=256)
def _unpacked_bytes(model: ModelGeometry, options: PlanOptions, stage: int) -> int:
    """Return what DeepSeek-V4's first output projection takes in bf16 beyond its stored bytes, under the plugin."""
    if model.family not in ("deepseek_v4", "deepseek_v41") or options.attention_backend != "TRITON_MLA_SPARSE":
        return 0
    return sum(
        rank_bytes(replace(weight, widened=True), model, options.parallel, layer=layer)
        - rank_bytes(weight, model, options.parallel, layer=layer)
        for layer, weight in stage_weights(model, options.parallel, stage, mtp=options.mtp)
        if weight.name == "attn.wo_a.weight"
    )


@lru_cache(maxsize=256)
def _offloaded(model: ModelGeometry, options: PlanOptions, stage: int) -> int:
    """Return the bytes that CPU offload takes off this GPU: decoder layers only, up to the given size."""
    if not options.cpu_offload_gib:
        return 0
    layers = sum(
        rank_bytes(weight, model, options.parallel, layer=layer)
        for layer, weight in stage_weights(model, options.parallel, stage, mtp=False)
        if layer is not None
    )
    return min(int(options.cpu_offload_gib * GIB), layers)


def _utilization(hardware: Hardware, options: PlanOptions) -> float:
    """Return --gpu-memory-utilization, no more than what is free at the start: vLLM refuses to start above that."""
    if hardware.memory_bytes is None or not hardware.free_bytes:
        return options.gpu_memory_utilization
    free = floor(100 * hardware.free_bytes / hardware.memory_bytes) / 100
    return min(options.gpu_memory_utilization, free)


def _memory_problems(hardware: Hardware, options: PlanOptions) -> tuple[str, ...]:
    share = _utilization(hardware, options)
    if share >= options.gpu_memory_utilization or options.gpu_memory_utilization == DEFAULT_UTILIZATION:
        return ()
    free = (hardware.free_bytes or 0) / GIB
    return (
        f"--gpu-memory-utilization {options.gpu_memory_utilization:g} is more than the {free:.1f} GiB that are free at "
        f"a start on {hardware.name}, which shares the host's memory; accepted: up to {share:g}",
    )


def _host_problems(model: ModelGeometry, hardware: Hardware, options: PlanOptions) -> tuple[str, ...]:
    parallel = options.parallel
    if hardware.host_memory_bytes is None or parallel.pipeline > model.num_hidden_layers:
        return ()

    def needed(place: TablePlace) -> int:
        return max(
            sum(one.bytes for one in _host_lines(hardware, parallel, table_bytes(model, parallel, stage, place), place))
            for stage in range(parallel.pipeline)
        )

    if needed(options.tables) <= hardware.host_memory_bytes:
        return ()
    said = (
        f"{needed(options.tables) / GIB:.0f} GiB of pinned host memory per node are needed for the n-gram tables; a "
        f"node has {hardware.host_memory_bytes / GIB:.0f} GiB"
    )
    if needed("huge pages") <= hardware.host_memory_bytes:
        said += f"; {HUGE_PAGES} takes {needed('huge pages') / GIB:.0f} GiB, where this vLLM has it"
    return (said,)


def _draft_problems(model: ModelGeometry, options: PlanOptions, checkpoint: Checkpoint | None) -> tuple[str, ...]:
    if not options.mtp or checkpoint is None or not checkpoint.lacks_drafts(model):
        return ()
    return (
        "--speculative-config asks for multi-token prediction, and the checkpoint has no layer "
        f"{model.num_hidden_layers} to draft with; leave it out, or take a checkpoint that kept its MTP layer",
    )


def _budget(hardware: Hardware, options: PlanOptions) -> int | None:
    if hardware.memory_bytes is None:
        return None
    return int(usable_bytes(hardware.memory_bytes) * _utilization(hardware, options))


def _largest(native: int, pool: Pool, spare: Callable[[int], int]) -> int:
    """Return the longest context that fits: a whole number of blocks, or the native one; 0 where none does."""
    if spare(native) >= 0:
        return native
    low, high = 0, native // pool.block
    while low < high:
        middle = (low + high + 1) // 2
        if spare(middle * pool.block) >= 0:
            low = middle
        else:
            high = middle - 1
    context = low * pool.block
    return context if context >= min(MINIMUM_CONTEXT, native) else 0


def _native_context(model: ModelGeometry) -> int:
    return model.max_position_embeddings or COMFORTABLE_CONTEXT


@lru_cache(maxsize=256)
def _parameters(model: ModelGeometry) -> tuple[int, int]:
    """Return (parameters, parameters of the MTP layers)."""
    parameters = mtp = 0
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=True):
        if layer is not None and layer >= model.num_hidden_layers:
            mtp += weight.count
        else:
            parameters += weight.count
    return parameters, mtp


def _disk_low(model: ModelGeometry) -> int | None:
    """Return the least bytes of the checkpoint where that is less than the most, else None."""
    size = configured_size(model)
    return size.low if size.low < size.high else None
