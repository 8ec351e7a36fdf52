"""From what the user typed to plain data: options, targets, requests, facts files."""

from dataclasses import dataclass
from pathlib import Path

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.targets import gpus_per_node, target_from_text
from dsa_doctor.facts.load import read_facts
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts, Gpu, GpuInventory
from dsa_doctor.reading import ReadingError, one_line
from dsa_doctor.resolver import Request, Target
from dsa_doctor.resolver.request import PluginMode


class UsageError(ValueError):
    """What the user asked for cannot be done as asked; the message names the option and what is accepted."""


_HALF = frozenset({"half", "float16"})
"""vLLM's spellings of one type."""


@dataclass(frozen=True)
class Options:
    """Options of `check` and `run-model` that shape the judgement.

    Attributes:
        target: what the user typed for --target; None judges the GPUs of the facts.
        tensor_parallel_size: None takes the number of visible GPUs, or those of a usual machine for a target elsewhere.
        kv_cache_dtype: as for vLLM's --kv-cache-dtype.
        backend: an attention backend asked for by name.
        dtype: as for vLLM's --dtype; what is neither float16 nor half is taken as bfloat16, the models' own.
        pipeline_parallel_size: as for vLLM, and so the next two.
        decode_context_parallel_size: see above.
        prefill_context_parallel_size: see above.
        drafts: speculative tokens.
        enforce_eager: whether CUDA graphs are off; None where that is not known.
        plugin_mode: --plugin; None leaves it to DSA_DOCTOR_PLUGIN in the judged environment.
        gpu_memory_gib: --gpu-memory: memory of each GPU in GiB, in place of what the driver or the catalog says.
    """

    target: str | None = None
    tensor_parallel_size: int | None = None
    kv_cache_dtype: str = "auto"
    backend: str | None = None
    dtype: str | None = None
    pipeline_parallel_size: int = 1
    decode_context_parallel_size: int = 1
    prefill_context_parallel_size: int = 1
    drafts: int = 0
    enforce_eager: bool | None = None
    plugin_mode: PluginMode | None = None
    gpu_memory_gib: float | None = None


def load_facts(path: Path) -> Facts:
    """Read a facts file; `-` is standard input.

    Raises:
        UsageError: the file cannot be read, is not JSON, or is not a facts file of a schema this version reads.
    """
    try:
        return read_facts(path)
    except ReadingError as error:
        raise UsageError(
            f"--facts {one_line(str(path))}: {error}. Accepted: a file made by `dsa-doctor facts > facts.json`."
        ) from error


def named_target(text: str | None) -> Target | None:
    """Return the target that --target names, or None where it names none.

    Raises:
        UsageError: it names no known GPU or compute capability.
    """
    if text is None:
        return None
    try:
        gpu = target_from_text(text)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Target(name=gpu.name, capability=str(gpu.capability), source="--target", memory_bytes=gpu.memory_bytes)


def with_memory(target: Target, gib: float | None) -> Target:
    """Return the target with the memory that --gpu-memory names, or as it is where that names none."""
    return target if gib is None else target.model_copy(update={"memory_bytes": int(gib * 2**30)})


def targets_of(inventory: Observation[GpuInventory], *, from_file: bool) -> list[Target]:
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


def largest_tensor_size(model: ModelGeometry, gpus: int) -> int:
    """Return the most ranks, of so many GPUs, among which the attention heads can be divided."""
    heads = model.num_attention_heads
    return max(one for one in range(1, min(gpus, heads) + 1) if heads % one == 0)


def request_for(model: ModelGeometry, target: Target, options: Options) -> Request:
    """Return the request of a launch; without a number of ranks, as many as the GPUs that the heads divide among."""
    ranks = options.tensor_parallel_size
    if ranks is None:
        ranks = largest_tensor_size(model, target.count or gpus_per_node(target.name))
    return Request(
        tensor_parallel_size=ranks,
        kv_cache_dtype=options.kv_cache_dtype,
        dtype="float16" if options.dtype in _HALF else "bfloat16",
        pipeline_parallel_size=options.pipeline_parallel_size,
        decode_context_parallel_size=options.decode_context_parallel_size,
        prefill_context_parallel_size=options.prefill_context_parallel_size,
        drafts=options.drafts,
        enforce_eager=options.enforce_eager,
        backend=options.backend.upper() if options.backend else None,
        plugin_mode=options.plugin_mode,
    )
