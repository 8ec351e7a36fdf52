"""From what the user asked to a launch: verdict, memory plan, flags, command, and what must hold on this machine."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.targets import find_gpu
from dsa_doctor.inputs import largest_tensor_size
from dsa_doctor.launch import conditions
from dsa_doctor.launch.devices import visible_devices
from dsa_doctor.launch.drafts import drafts_left_out
from dsa_doctor.launch.endpoint import Endpoint
from dsa_doctor.launch.flags import Flag, Variable, launch_flags, launch_variables, server_command, verified
from dsa_doctor.launch.options import KnownOptions, ask_options
from dsa_doctor.launch.request import Choice, LaunchOptions
from dsa_doctor.launch.secrets import hidden
from dsa_doctor.planner import (
    Hardware,
    Parallel,
    Plan,
    PlanOptions,
    Shape,
    checkpoint_at_hand,
    nearest_shapes,
    plan,
)
from dsa_doctor.planner.plan import DEFAULT_UTILIZATION
from dsa_doctor.verdict.schema import Configuration, TargetInfo, Verdict

_BLOCK_SIZE = 64
"""Tokens per KV page where neither the verdict nor the user says: vLLM's own for these models."""


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
        left_out: what the checkpoint brings and the launch does not use, and how to use it.
        served: what vLLM is given as its model.
        command: the whole argument vector as it may be shown: without keys and tokens.
        arguments: the argument vector that is run.
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
    arguments: tuple[str, ...] = field(default=(), repr=False)
    left_out: str | None = None


def parallel_of(options: LaunchOptions, model: ModelGeometry, gpus: int) -> Parallel:
    """Return the parallel sizes: what was asked for, else heads over the GPUs of a node and layers over the nodes."""
    nodes = options.nodes.value
    pipeline = nodes if options.pipeline.value is None else options.pipeline.value
    data = options.data.value
    # Whatever the pipeline and the copies of the attention leave of the GPUs is for the heads.
    room = max(1, nodes * gpus // (pipeline * data))
    tensor = largest_tensor_size(model, room) if options.tensor.value is None else options.tensor.value
    return Parallel(tensor=tensor, pipeline=pipeline, data=data, expert=options.expert.value)


def plan_options(options: LaunchOptions, parallel: Parallel, configuration: Configuration | None) -> PlanOptions:
    """Return what the plan is to reckon with: what vLLM will be given, whoever chose it.

    What reaches vLLM without us counts even where the verdict implies another value.
    """
    dtype, backend, block_size = options.kv_cache_dtype, options.attention_backend, options.block_size
    if configuration is not None:
        dtype = dtype if dtype.reaches_vllm else Choice(configuration.kv_cache_dtype)
        backend = backend if backend.reaches_vllm else Choice(configuration.attention_backend)
        block_size = block_size if block_size.is_given else Choice(configuration.block_size)
    utilization = options.gpu_memory_utilization.value
    return PlanOptions(
        parallel=parallel,
        kv_cache_dtype=dtype.value or "auto",
        attention_backend=backend.value or "auto",
        block_size=_BLOCK_SIZE if block_size.value is None else block_size.value,
        gpu_memory_utilization=DEFAULT_UTILIZATION if utilization is None else utilization,
        max_model_len=options.max_model_len.value,
        max_num_seqs=options.max_num_seqs.value,
        max_num_batched_tokens=options.max_num_batched_tokens.value,
        cpu_offload_gib=options.cpu_offload_gib.value,
        enforce_eager=options.enforce_eager.value,
        mtp=options.speculative.value,
        tables=options.tables.value,
    )


def prepare(
    options: LaunchOptions, model: ModelGeometry, verdict: Verdict, gpus: int, ask_vllm: Callable[[], KnownOptions]
) -> Prepared:
    """Return the launch that a verdict allows; `ask_vllm` is called once, last, and may take long."""
    memory, free = _memory_of(verdict.target)
    hardware = Hardware(
        name=verdict.target.name if verdict.target is not None else "this machine",
        gpus_per_node=gpus,
        nodes=options.nodes.value,
        memory_bytes=memory,
        free_bytes=free,
        host_memory_bytes=None if options.elsewhere else conditions.host_memory(),
    )
    asked = plan_options(options, parallel_of(options, model, gpus), verdict.configuration)
    checkpoint, warnings = checkpoint_at_hand(local_folder(options.model), model)
    found = plan(model, hardware, asked, checkpoint)
    shapes = nearest_shapes(model, hardware, asked, checkpoint) if found.fits is False or found.estimates_decide else ()
    checked = verified(launch_flags(verdict, model, found, options), ask_vllm(), options)
    served = served_model(options.model, model)
    executable = ["vllm"] if options.elsewhere else (find_executable(options.executable) or ["vllm"])
    arguments = tuple(server_command(executable, served, checked.flags, options.passthrough))
    return Prepared(
        verdict=verdict,
        model=model,
        plan=found,
        shapes=shapes,
        flags=checked.flags,
        variables=launch_variables(verdict, found),
        warnings=(*warnings, *checked.warnings),
        served=served,
        command=hidden(arguments),
        arguments=arguments,
        left_out=drafts_left_out(model, verdict, options),
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
    beside = own_vllm()
    found = os.fspath(beside) if beside is not None else shutil.which("vllm")
    return [found] if found is not None else None


def own_vllm() -> Path | None:
    """Return the vllm command of this environment, whose vLLM is the one that `check` asks."""
    beside = Path(sys.executable).with_name("vllm")
    return beside if beside.is_file() else None


def vllm_options(given: str | None) -> KnownOptions:
    """Return the options of the vLLM that would be started."""
    executable = find_executable(given)
    if executable is None:
        return KnownOptions(frozenset(), {}, "no vllm command was found")
    return ask_options(executable)


def conditions_for(options: LaunchOptions, prepared: Prepared, endpoint: Endpoint) -> list[conditions.Condition]:
    """Return what was looked at on this machine before the start, failures included."""
    found, parallel = prepared.plan, prepared.plan.parallel
    checks = [check_vllm(options.executable)]
    if endpoint.socket_path is not None:
        checks.append(conditions.check_socket(endpoint))
    else:
        checks.append(conditions.check_port(options.host.value, options.port.value))
    if found.budget_bytes is not None:
        wanted = parallel.world_size // options.nodes.value
        checks.append(conditions.check_gpus(visible_devices(), wanted, found.gpu_memory_utilization))
    checks += [
        conditions.check_shared_memory(parallel.world_size),
        conditions.check_limits(offloads=found.host_bytes > 0),
        conditions.check_orphans(),
    ]
    folder = local_folder(options.model)
    if options.load_format.value != "dummy":
        checks.append(conditions.check_disk(prepared.model.hub_id or options.model, folder, found.disk_bytes))
    if found.host_bytes:
        checks.append(conditions.check_host_memory(found.host_bytes, sum(line.bytes for line in found.host_lines)))
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
