"""From what the user asked to a launch: verdict, memory plan, flags, command, and what must hold on this machine."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.lookup import find_geometry
from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.targets import find_gpu
from dsa_doctor.launch import conditions
from dsa_doctor.launch.devices import visible_devices
from dsa_doctor.launch.extra import Given
from dsa_doctor.launch.flags import (
    Flag,
    Variable,
    Wishes,
    launch_flags,
    launch_variables,
    server_command,
    verified,
)
from dsa_doctor.launch.options import KnownOptions, ask_options
from dsa_doctor.planner import (
    Checkpoint,
    Hardware,
    HeaderError,
    Parallel,
    Plan,
    PlanOptions,
    Shape,
    checkpoint_of,
    nearest_shapes,
    plan,
    stored_tensors,
)
from dsa_doctor.planner.plan import DEFAULT_UTILIZATION
from dsa_doctor.verdict.schema import TargetInfo, Verdict

DEFAULT_GPUS = 8
"""GPUs of a node elsewhere, where --gpus does not say."""


@dataclass(frozen=True)
class Ask:
    """What the user asked of run-model.

    Attributes:
        model: what was typed for MODEL.
        gpus: GPUs per node; None takes those of this machine, or 8.
        nodes: nodes.
        tensor: --tensor-parallel-size; None takes the largest that divides the heads.
        pipeline: --pipeline-parallel-size; None takes the number of nodes.
        data: --data-parallel-size.
        wishes: what becomes flags.
        extra: what follows `--`.
        executable: command that runs vLLM; None looks for it.
        elsewhere: whether the launch is for other machines (--target or --emit), whose state cannot be looked at.
    """

    model: str
    wishes: Wishes
    gpus: int | None = None
    nodes: int = 1
    tensor: int | None = None
    pipeline: int | None = None
    data: int = 1
    extra: tuple[str, ...] = ()
    executable: str | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class Prepared:
    """A launch that could be made.

    Attributes:
        verdict: as `check` gives it.
        plan: the memory plan; None where the model could not be determined.
        shapes: where it does not fit, what would.
        flags: verified flags.
        variables: environment of the server.
        warnings: flags left out, and other things to know.
        served: what vLLM is given as its model.
        command: the whole argument vector.
    """

    verdict: Verdict
    model: ModelGeometry
    plan: Plan
    shapes: tuple[Shape, ...]
    flags: tuple[Flag, ...]
    variables: tuple[Variable, ...]
    warnings: tuple[str, ...]
    served: str
    command: tuple[str, ...]


def parallel_of(ask: Ask, given: Given, model: ModelGeometry, gpus: int) -> Parallel:
    """Return the parallel sizes: what follows `--`, else the options, else heads over GPUs and layers over nodes."""
    heads = model.num_attention_heads
    pipeline = given.pipeline or ask.pipeline or ask.nodes
    data = given.data or ask.data
    # Whatever the pipeline and the copies of the attention leave of the GPUs is for the heads.
    room = max(1, ask.nodes * gpus // (pipeline * data))
    largest = max(one for one in range(1, min(room, heads) + 1) if heads % one == 0)
    expert = ask.wishes.expert_parallel if given.expert is None else given.expert
    return Parallel(tensor=given.tensor or ask.tensor or largest, pipeline=pipeline, data=data, expert=expert)


def prepare(ask: Ask, given: Given, verdict: Verdict, gpus: int, ask_vllm: Callable[[], KnownOptions]) -> Prepared:
    """Return the launch that a verdict allows; `ask_vllm` is called once, last, and may take long.

    Raises:
        UnknownModelError: the model could not be determined.
    """
    model = find_geometry(ask.model)
    target, wishes, configuration = verdict.target, ask.wishes, verdict.configuration
    memory, free = _memory_of(target)
    hardware = Hardware(
        name=target.name if target is not None else "this machine",
        gpus_per_node=gpus,
        nodes=ask.nodes,
        memory_bytes=memory,
        free_bytes=free,
        host_memory_bytes=None if ask.elsewhere else conditions.host_memory(),
    )
    options = PlanOptions(
        parallel=parallel_of(ask, given, model, gpus),
        kv_cache_dtype=given.kv_cache_dtype
        or (configuration.kv_cache_dtype if configuration is not None else wishes.kv_cache_dtype or "auto"),
        attention_backend=given.attention_backend
        or (configuration.attention_backend if configuration is not None else "auto"),
        block_size=given.block_size or (configuration.block_size if configuration is not None else None) or 64,
        gpu_memory_utilization=given.gpu_memory_utilization or wishes.gpu_memory_utilization or DEFAULT_UTILIZATION,
        max_model_len=given.max_model_len or wishes.max_model_len,
        max_num_seqs=given.max_num_seqs or wishes.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        cpu_offload_gib=wishes.cpu_offload_gib if given.cpu_offload_gib is None else given.cpu_offload_gib,
        enforce_eager=wishes.enforce_eager if given.enforce_eager is None else given.enforce_eager,
        mtp=given.speculative,
    )
    checkpoint, warnings = _local_checkpoint(ask.model, model)
    found = plan(model, hardware, options, checkpoint)
    shapes = nearest_shapes(model, hardware, options, checkpoint) if found.fits is False else ()
    checked = verified(launch_flags(verdict, model, found, wishes), ask_vllm(), ask.extra)
    served = served_model(ask.model, model)
    executable = ["vllm"] if ask.elsewhere else (find_executable(ask.executable) or ["vllm"])
    return Prepared(
        verdict=verdict,
        model=model,
        plan=found,
        shapes=shapes,
        flags=checked.flags,
        variables=launch_variables(verdict, found),
        warnings=(*warnings, *checked.warnings),
        served=served,
        command=tuple(server_command(executable, served, checked.flags, ask.extra)),
    )


def served_model(text: str, model: ModelGeometry) -> str:
    """Return what vLLM is given: the Hub id of a catalog name, the folder of a local model, else the text itself."""
    if find_model(text) is not None and model.hub_id is not None:
        return model.hub_id
    path = local_folder(text)
    return os.fspath(path) if path is not None else text


def local_folder(text: str) -> Path | None:
    """Return the folder of a local model (that of a config.json, where one was named), or None for a name or Hub id."""
    if find_model(text) is not None:
        return None
    path = Path(text).expanduser()
    if not path.exists():
        return None
    return (path if path.is_dir() else path.parent).resolve()


def find_executable(given: str | None) -> list[str] | None:
    """Return the command that runs vLLM: the one given, that of this environment, or that of PATH; None without any."""
    if given is not None:
        found = shutil.which(given)
        return [found] if found is not None else None
    beside = Path(sys.executable).with_name("vllm")
    if beside.is_file():
        return [os.fspath(beside)]
    found = shutil.which("vllm")
    return [found] if found is not None else None


def vllm_options(given: str | None) -> KnownOptions:
    """Return the options of the vLLM that would be started."""
    executable = find_executable(given)
    if executable is None:
        return KnownOptions(frozenset(), {}, "no vllm command was found")
    return ask_options(executable)


def conditions_for(ask: Ask, given: Given, prepared: Prepared) -> list[conditions.Condition]:
    """Return what was looked at on this machine before the start, failures included."""
    host, port = given.host or ask.wishes.host, given.port or ask.wishes.port
    found, parallel = prepared.plan, prepared.plan.parallel
    checks = [check_vllm(ask.executable), conditions.check_port(host, port)]
    if found.budget_bytes is not None:
        share = given.gpu_memory_utilization or ask.wishes.gpu_memory_utilization or DEFAULT_UTILIZATION
        checks.append(conditions.check_gpus(visible_devices(), parallel.world_size // ask.nodes, share))
    checks += [
        conditions.check_shared_memory(parallel.world_size),
        conditions.check_limits(offloads=found.host_bytes > 0),
        conditions.check_orphans(),
    ]
    folder = local_folder(ask.model)
    if given.load_format != "dummy":
        checks.append(conditions.check_disk(prepared.model.hub_id or ask.model, folder, found.disk_bytes))
    if found.host_bytes:
        checks.append(conditions.check_host_memory(found.host_bytes))
    return checks


def check_vllm(given: str | None) -> conditions.Condition:
    """Look for the vllm command."""
    executable = find_executable(given)
    if executable is not None:
        return conditions.Condition(name="vLLM", status="pass", summary=executable[0])
    where = f"{given} cannot be run" if given else "no vllm command in this environment or in PATH"
    return conditions.Condition(
        name="vLLM", status="fail", summary=where, remedy="pip install vllm, or name it with --vllm-executable."
    )


def _memory_of(target: TargetInfo | None) -> tuple[int | None, int | None]:
    """Return (memory of a GPU, most of it that is free at a start), with what the catalog knows where nothing is said.

    The driver says nothing of a GPU that shares the host's memory. The second is None where the GPU shares none.
    """
    known = find_gpu(target.name) if target is not None else None
    if (
        target is not None
        and target.memory_bytes is not None
        and (known is None or target.memory_bytes != known.memory_bytes)
    ):
        return target.memory_bytes, None
    if known is None:
        return None, None
    return known.memory_bytes, known.free_mib * 2**20 if known.free_mib is not None else None


def _local_checkpoint(text: str, model: ModelGeometry) -> tuple[Checkpoint | None, Sequence[str]]:
    """Return the tensors of a local checkpoint, or why they were not used."""
    folder = local_folder(text)
    if folder is None:
        return None, ()
    try:
        tensors = stored_tensors(folder)
    except HeaderError as error:
        return None, (f"the weights are counted from the configuration: {error}",)
    if not tensors:
        return None, ()
    checkpoint = checkpoint_of(tensors, model)
    if checkpoint.unrecognised:
        names = ", ".join(checkpoint.unrecognised[:3])
        return checkpoint, (
            f"{len(checkpoint.unrecognised)} tensors are counted on every GPU, not knowing them: {names}",
        )
    return checkpoint, ()
