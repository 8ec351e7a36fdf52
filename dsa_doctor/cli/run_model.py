"""`dsa-doctor run-model`."""

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.output import console, fail_usage, print_data

if TYPE_CHECKING:
    from dsa_doctor.launch.extra import Given
    from dsa_doctor.launch.prepare import Ask, Prepared
    from dsa_doctor.launch.watch import Watcher

EXIT_WILL_NOT_RUN = 32
"""The layers are resolved, but the memory plan or a condition of this machine says that it cannot run."""


class Form(str, Enum):
    """What --emit writes."""

    SHELL = "shell"
    DOCKER = "docker"
    LWS = "lws"
    RAY = "ray"


def run_model(
    model: Annotated[str, typer.Argument(help="As for `check`: a known model, a folder, a config.json or a Hub id.")],
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM OPTIONS]", help="Passed to vLLM untouched, last: they win.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A GPU to plan for, as for `check`. [default: this machine's]")
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory",
            metavar="GIB",
            min=0.5,
            max=4096,
            help="Memory of each GPU in GiB. [default: what the driver or the catalog says]",
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="GPUs per node. [default: this machine's, or 8]")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes; more than one needs --emit.")] = 1,
    tensor_parallel_size: Annotated[
        int | None, typer.Option("--tensor-parallel-size", "-tp", min=1, help="[default: the GPUs of a node]")
    ] = None,
    pipeline_parallel_size: Annotated[
        int | None, typer.Option("--pipeline-parallel-size", "-pp", min=1, help="[default: the nodes]")
    ] = None,
    data_parallel_size: Annotated[int, typer.Option("--data-parallel-size", "-dp", min=1)] = 1,
    enable_expert_parallel: Annotated[bool, typer.Option("--enable-expert-parallel", "-ep")] = False,
    kv_cache_dtype: Annotated[str, typer.Option("--kv-cache-dtype", help="As for `check`.")] = "auto",
    attention_backend: Annotated[str | None, typer.Option("--attention-backend", help="As for `check`.")] = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=1, help="[default: the largest that fits]")
    ] = None,
    max_num_seqs: Annotated[int | None, typer.Option("--max-num-seqs", min=1)] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option("--gpu-memory-utilization", min=0.01, max=1.0)] = None,
    cpu_offload_gb: Annotated[float, typer.Option("--cpu-offload-gb", min=0.0, help="GiB per GPU.")] = 0.0,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs.")] = False,
    host: Annotated[str | None, typer.Option("--host")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would run, and why each flag.")] = False,
    emit: Annotated[Form | None, typer.Option("--emit", help="Write the launch for something else to run.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Container image for --emit docker and lws.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on although something says that it cannot work.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the server running once it is ready.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1.0, help="Seconds until it must be ready. [default: no limit]")
    ] = None,
    no_smoke: Annotated[bool, typer.Option("--no-smoke", help="Do not ask the smoke prompt.")] = False,
    stop_timeout: Annotated[
        float, typer.Option("--stop-timeout", min=0.1, help="Seconds that each stage of the stop waits.")
    ] = 30.0,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="[default: a new file in the state folder]")
    ] = None,
    vllm_executable: Annotated[
        str | None, typer.Option("--vllm-executable", help="The vllm command. [default: this environment's]")
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", "-f", help="For --dry-run.")] = Format.HUMAN,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Serve a DSA model: check, plan the memory, choose the flags, start vLLM, verify it, stop it cleanly.

    Exit code: that of `check` where a layer is not resolved; 32 where memory or machine do not allow it, or the smoke
    prompt gets no sane answer; 124 not ready in time; 130 or 143 interrupted; else vLLM's own.
    """
    from dsa_doctor.launch.extra import ExtraArgumentError, read_extra  # pydantic and the probes: not for --help
    from dsa_doctor.launch.flags import Wishes
    from dsa_doctor.launch.prepare import Ask

    if nodes > 1 and emit is None and not dry_run:
        fail_usage(
            f"--nodes {nodes}: several nodes are started by something else. Add --emit shell, docker, lws or ray."
        )
    arguments = tuple(extra or ())
    try:
        given = read_extra(arguments)
    except ExtraArgumentError as error:
        fail_usage(str(error))
    ask = Ask(
        model=model,
        wishes=Wishes(
            host=host,
            port=port,
            kv_cache_dtype=kv_cache_dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            gpu_memory_utilization=gpu_memory_utilization,
            cpu_offload_gib=cpu_offload_gb,
            enforce_eager=enforce_eager,
            expert_parallel=enable_expert_parallel,
        ),
        gpus=gpus,
        nodes=nodes,
        tensor=tensor_parallel_size,
        pipeline=pipeline_parallel_size,
        data=data_parallel_size,
        extra=arguments,
        executable=vllm_executable,
        elsewhere=target is not None or emit is not None,
    )
    quiet = emit is not None or (dry_run and output_format is Format.JSON)
    try:
        prepared = _prepare(
            ask,
            given,
            target=target,
            gpu_memory=gpu_memory,
            backend=attention_backend,
            force=force,
            quiet=quiet,
            verbose=verbose,
        )
        if dry_run and output_format is Format.JSON:
            print_data(_as_json(prepared))
        if prepared.plan.fits is False and not force:
            raise typer.Exit(EXIT_WILL_NOT_RUN)
        if prepared.plan.fits is False:
            _say("--force: going on although the memory plan says that it does not fit.")
        if emit is not None:
            _emit(emit, ask, prepared, image)
        elif not dry_run:
            _launch(
                ask,
                given,
                prepared,
                log=log_file or _default_log(prepared.model.name),
                force=force,
                detach=detach,
                timeout=timeout,
                smoke=not no_smoke,
                stop_timeout=stop_timeout,
                verbose=verbose,
            )
    except KeyboardInterrupt:
        _say("interrupted; nothing is left running")
        raise typer.Exit(130) from None


def _prepare(
    ask: "Ask",
    given: "Given",
    *,
    target: str | None,
    gpu_memory: float | None,
    backend: str | None,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> "Prepared":
    """Check and plan; exit where the answer is no and the user does not insist."""
    from dsa_doctor.catalog.lookup import UnknownModelError, find_geometry
    from dsa_doctor.inputs import Options, UsageError, plugin_mode_from
    from dsa_doctor.launch.prepare import DEFAULT_GPUS, parallel_of, prepare, vllm_options
    from dsa_doctor.preflight import preflight
    from dsa_doctor.probes import gpus as gpu_probe
    from dsa_doctor.render.human import print_verdict
    from dsa_doctor.render.plan import print_command, print_flags, print_plan

    inventory = gpu_probe.probe().value if target is None else None
    visible = sum(1 for gpu in inventory.gpus if gpu.visible) if inventory is not None else 0
    gpus = ask.gpus or visible or (DEFAULT_GPUS if ask.elsewhere else 1)
    try:
        parallel = parallel_of(ask, given, find_geometry(ask.model), gpus)
        tensor = parallel.tensor
    except UnknownModelError:
        tensor = given.tensor or ask.tensor or 1  # preflight says what is wrong with the model
    try:
        verdict = preflight(
            ask.model,
            Options(
                target=target,
                tensor_parallel_size=tensor,
                kv_cache_dtype=given.kv_cache_dtype or ask.wishes.kv_cache_dtype or "auto",
                backend=given.attention_backend or backend,
                plugin_mode=plugin_mode_from(os.environ.get("DSA_DOCTOR_PLUGIN")),
                gpu_memory_gib=gpu_memory,
            ),
        )
    except UsageError as error:
        fail_usage(str(error))
    out = console(stderr=quiet)
    print_verdict(out, verdict, verbose=verbose)
    if verdict.exit_code != 0 and not force:
        raise typer.Exit(verdict.exit_code)
    if verdict.exit_code != 0:
        _say(
            f"--force: going on although check says no (exit code {verdict.exit_code}). It may fail, or answer wrongly."
        )
    try:
        prepared = prepare(ask, given, verdict, gpus, lambda: vllm_options(ask.executable))
    except UnknownModelError as error:
        _say(str(error))
        raise typer.Exit(verdict.exit_code or EXIT_WILL_NOT_RUN) from None
    print_plan(out, prepared.plan, prepared.shapes)
    configuration = verdict.configuration
    fallbacks = configuration.fallbacks if configuration is not None else {}
    print_flags(out, prepared.flags, prepared.variables, ask.extra, fallbacks)
    print_command(out, prepared.variables, prepared.command)
    for warning in prepared.warnings:
        _say(f"warning: {warning}")
    return prepared


def _launch(
    ask: "Ask",
    given: "Given",
    prepared: "Prepared",
    *,
    log: Path,
    force: bool,
    detach: bool,
    timeout: float | None,
    smoke: bool,
    stop_timeout: float,
    verbose: bool,
) -> None:
    """Start the server, watch it, and exit with what became of it."""
    from dsa_doctor.launch.http import base_url
    from dsa_doctor.launch.prepare import conditions_for
    from dsa_doctor.launch.process import LaunchError, Server
    from dsa_doctor.launch.watch import Watcher, WatchOptions, write_through
    from dsa_doctor.render.plan import print_conditions, stage_line, summary_lines

    conditions = conditions_for(ask, given, prepared)
    print_conditions(console(stderr=True), conditions, verbose=verbose)
    failed = [one for one in conditions if one.status == "fail"]
    if any(one.name == "vLLM" for one in failed) or (failed and not force):
        raise typer.Exit(EXIT_WILL_NOT_RUN)
    url = base_url(given.host or ask.wishes.host, given.port or ask.wishes.port)
    environment = {one.name: one.value for one in prepared.variables if one.name not in os.environ}
    try:
        server = Server(list(prepared.command), log=log, environment=environment, grace=stop_timeout)
    except LaunchError as error:
        _say(str(error))
        raise typer.Exit(EXIT_WILL_NOT_RUN) from None
    _say(f"started, pid {server.pid}; log: {log}")

    def on_ready(watcher: "Watcher") -> None:
        outcome = watcher.outcome_so_far()
        for line in summary_lines(outcome, url, prepared.plan):
            _say(line)

    watcher = Watcher(
        server,
        WatchOptions(url=url, timeout=timeout, smoke=smoke, tolerate=force, detach=detach, api_key=given.api_key),
        on_log=write_through,
        on_stage=lambda stage, seconds: _say(stage_line(stage, seconds)),
        on_ready=on_ready,
        on_stop=lambda name: _say(f"stopping: {name}"),
    )
    outcome = watcher.run()
    if outcome.reason == "detached":
        _say(f"left running; to stop it: kill {server.supervisor_pid}")
        raise typer.Exit(0)
    _say_end(outcome.reason, outcome.code, timeout, watcher)
    raise typer.Exit(outcome.code)


def _say_end(reason: str, code: int, timeout: float | None, watcher: "Watcher") -> None:
    from dsa_doctor.launch.aftermath import diagnosis, leftovers

    if reason == "not ready in time":
        _say(f"not ready within {timeout:.0f} s (--timeout); last stage: {watcher.facts.stage}")
    elif reason == "smoke prompt" and watcher.answer is not None:
        _say(f"stopped, because {watcher.answer.problem}")
    elif reason == "ended":
        before = "" if watcher.ready_seconds is not None else f" before it was ready (stage: {watcher.facts.stage})"
        _say(f"vLLM ended by itself{before}, exit code {code}")
    if reason in {"ended", "not ready in time"} and code != 0:
        for line in diagnosis(watcher.server.log):
            _say(line)
    for line in leftovers(watcher.server):
        _say(line)
    _say(f"exit code {code}")


def _emit(form: Form, ask: "Ask", prepared: "Prepared", image: str | None) -> None:
    from dsa_doctor.emit import FORMS, Launch

    launch = Launch(
        name=prepared.model.name,
        model=prepared.served,
        flags=prepared.flags,
        variables=prepared.variables,
        extra=ask.extra,
        nodes=ask.nodes,
        gpus_per_node=prepared.plan.hardware.gpus_per_node,
        port=ask.wishes.port,
        host_memory_bytes=prepared.plan.host_bytes,
    )
    if image is not None:
        launch = launch.model_copy(update={"image": image})
    print_data(FORMS[form.value](launch))


def _as_json(prepared: "Prepared") -> str:
    content = {
        "verdict": prepared.verdict.model_dump(mode="json"),
        "plan": prepared.plan.model_dump(mode="json"),
        "shapes": [{"what": one.what, "cost": one.cost} for one in prepared.shapes],
        "flags": [one.model_dump(mode="json") for one in prepared.flags],
        "environment": [one.model_dump(mode="json") for one in prepared.variables],
        "warnings": list(prepared.warnings),
        "command": list(prepared.command),
    }
    return json.dumps(content, indent=2) + "\n"


def _default_log(name: str) -> Path:
    import time

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    safe = "".join(one if one.isalnum() or one in "-._" else "-" for one in name)
    return state / "dsa-doctor" / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


def _say(text: str) -> None:
    """Write one line of dsa-doctor's own to standard error: standard output is vLLM's."""
    sys.stderr.write(f"dsa-doctor: {text}\n")
    sys.stderr.flush()
