"""Where a model does not fit: the nearest shapes in which it does, each with its cost said plainly."""

import re
from collections.abc import Iterator
from math import ceil

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.models import KNOWN_MODELS
from dsa_doctor.facts.observation import Fact
from dsa_doctor.planner.checkpoint import Checkpoint
from dsa_doctor.planner.estimates import GIB
from dsa_doctor.planner.families.deepseek_v4 import PLAIN_BACKENDS
from dsa_doctor.planner.parallel import Parallel
from dsa_doctor.planner.plan import Hardware, Plan, PlanOptions, plan
from dsa_doctor.planner.rows import kv_layout
from dsa_doctor.planner.storage import storage_of

_MOST_NODES = 16
_STORAGE_WORDS = re.compile(r"-(?:fp8|bf16|nvfp4|mxfp4|awq|gptq|int\d|w\d+a\d+|\d+bit)\b.*$")
"""What names of checkpoints say of their weights, and what follows it."""
_OFFLOAD_MARGIN_GIB = 2
"""Room for what is only estimated."""
_OFFLOAD_STEP_GIB = 4
_PCIE_GIB_PER_SECOND = 24
"""What a PCIe 4.0 x16 link moves in practice, the link of an A100."""


class Shape(Fact):
    """One shape in which the model fits."""

    what: str
    """What to change, as options of run-model or of vLLM."""
    cost: str
    plan: Plan


def nearest_shapes(
    model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None = None
) -> tuple[Shape, ...]:
    """Return the shapes that fit, the one to try first at the front; empty where none was found or memory is unknown.

    Tried one at a time: a shorter context, an fp8 KV cache, more nodes, CPU offload, another quantisation.
    """
    if hardware.memory_bytes is None:
        return ()
    candidates = (
        _shorter_context(model, hardware, options, checkpoint),
        _fp8_kv_cache(model, hardware, options, checkpoint),
        _more_nodes(model, hardware, options, checkpoint),
        _offload(model, hardware, options, checkpoint),
        *_other_checkpoints(model, hardware, options),
    )
    return tuple(shape for shape in candidates if shape is not None)


def _shorter_context(
    model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None
) -> Shape | None:
    if options.max_model_len is None:
        return None
    found = plan(model, hardware, options.model_copy(update={"max_model_len": None}), checkpoint)
    if not found.fits or found.max_model_len is None or found.max_model_len >= options.max_model_len:
        return None
    cost = f"{found.max_model_len:,} tokens of context instead of {options.max_model_len:,}"
    return Shape(what=f"--max-model-len {found.max_model_len}", cost=cost, plan=found)


def _fp8_kv_cache(
    model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None
) -> Shape | None:
    plain_alone = model.compression is not None and options.attention_backend in PLAIN_BACKENDS
    if (
        not model.uses_dsa
        or plain_alone
        or kv_layout(options.kv_cache_dtype, options.attention_backend) != "two-byte rows"
    ):
        return None
    found = plan(model, hardware, options.model_copy(update={"kv_cache_dtype": "fp8_ds_mla"}), checkpoint)
    cost = f"{found.kv_token_bytes:,} instead of two-byte rows per token; KV values are rounded to 8 bits"
    return Shape(what="--kv-cache-dtype fp8_ds_mla", cost=cost, plan=found) if found.fits else None


def _more_nodes(
    model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None
) -> Shape | None:
    for nodes in range(hardware.nodes + 1, _MOST_NODES + 1):
        wider = hardware.model_copy(update={"nodes": nodes})
        gpus = nodes * hardware.gpus_per_node
        cost = f"{gpus} GPUs; the nodes need a fast network between them"
        for parallel, what in _across(options.parallel, hardware, nodes, model):
            found = plan(model, wider, options.model_copy(update={"parallel": parallel}), checkpoint)
            if found.fits:
                return Shape(what=what, cost=cost, plan=found)
    return None


def _across(old: Parallel, hardware: Hardware, nodes: int, model: ModelGeometry) -> Iterator[tuple[Parallel, str]]:
    """Yield how a launch can spread over more nodes: its layers, and where a node has one GPU, its heads too."""
    pipeline, rest = divmod(old.pipeline * nodes, hardware.nodes)
    if not rest and pipeline <= model.num_hidden_layers:
        what = f"--nodes {nodes} (tensor parallel {old.tensor}, pipeline parallel {pipeline})"
        yield old.model_copy(update={"pipeline": pipeline}), what
    tensor, rest = divmod(old.tensor * nodes, hardware.nodes)
    if hardware.gpus_per_node == 1 and not rest and model.num_attention_heads % tensor == 0:
        what = f"--nodes {nodes} -tp {tensor} -pp {old.pipeline}"
        yield old.model_copy(update={"tensor": tensor}), what


def _offload(
    model: ModelGeometry, hardware: Hardware, options: PlanOptions, checkpoint: Checkpoint | None
) -> Shape | None:
    missing = plan(model, hardware, options, checkpoint).shortfall_bytes
    if not missing or hardware.free_bytes is not None:  # what shares the host's memory gains nothing by offload
        return None
    least = options.cpu_offload_gib + missing / GIB + _OFFLOAD_MARGIN_GIB
    gib = ceil(least / _OFFLOAD_STEP_GIB) * _OFFLOAD_STEP_GIB
    found = plan(model, hardware, options.model_copy(update={"cpu_offload_gib": float(gib)}), checkpoint)
    if not found.fits:
        return None
    host = gib * hardware.gpus_per_node
    if hardware.host_memory_bytes is not None and host * GIB > hardware.host_memory_bytes:
        return None
    seconds = gib / _PCIE_GIB_PER_SECOND
    cost = (
        f"{host} GiB of pinned host memory per node; every step reads offloaded weights over PCIe, up to {gib} GiB per "
        f"GPU, which takes up to about {seconds:.1f} s a step at {_PCIE_GIB_PER_SECOND} GiB/s (estimated)"
    )
    return Shape(what=f"--cpu-offload-gb {gib}", cost=cost, plan=found)


def _other_checkpoints(model: ModelGeometry, hardware: Hardware, options: PlanOptions) -> list[Shape]:
    """Return the catalog's checkpoints of the same model with other weights that fit."""
    shapes = []
    for known in KNOWN_MODELS:
        other = known.geometry()
        if storage_of(other).name == storage_of(model).name or not _same_model(model, other):
            continue
        found = plan(other, hardware, options)
        if found.fits:
            cost = f"weights in {storage_of(other).name}; whether this GPU runs them is for `dsa-doctor check` to say"
            shapes.append(Shape(what=known.name, cost=cost, plan=found))
    return shapes


def _same_model(one: ModelGeometry, other: ModelGeometry) -> bool:
    """Whether two checkpoints are the same model: equal names but for how the weights are stored, and equal shapes."""
    same = ("num_hidden_layers", "hidden_size", "n_routed_experts", "shared_indexer_layers", "vocab_size", "family")
    return _stem(one.name) == _stem(other.name) and all(getattr(one, field) == getattr(other, field) for field in same)


def _stem(name: str) -> str:
    """Return a model's name without its organisation and without the words for its weights."""
    return _STORAGE_WORDS.sub("", name.rsplit("/")[-1].lower())
