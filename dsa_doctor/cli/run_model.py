"""`dsa-doctor run-model`."""

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa_doctor.cli.cache import NoCache, keeper_for
from dsa_doctor.cli.check import Format
from dsa_doctor.cli.completion import complete_backend, complete_dtype, complete_model, complete_target
from dsa_doctor.cli.output import console, fail_usage, print_data
from dsa_doctor.cli.status import status
from dsa_doctor.cli.typed import check_choices, check_models, plugin_mode_of_environment

if TYPE_CHECKING:
    from rich.console import Console

    from dsa_doctor.launch.prepare import Prepared
    from dsa_doctor.launch.request import LaunchOptions
    from dsa_doctor.verdict.schema import Verdict


class Form(str, Enum):
    """What --emit writes."""

    SHELL = "shell"
    DOCKER = "docker"
    LWS = "lws"
    RAY = "ray"


def run_model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="As for `check`: a known model, a folder, a config.json or a Hub id.",
        ),
    ],
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM OPTIONS]", help="Passed to vLLM untouched, last: they win.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="GPU",
            autocompletion=complete_target,
            help="A GPU to plan for, as for `check`. [default: this machine's]",
        ),
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
        int | None,
        typer.Option(
            "--gpus", metavar="N", min=1, help="GPUs per node. [default: this machine's, or 8; 1 for gb10, thor]"
        ),
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, help="Nodes; more than one needs --emit.")] = 1,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel-size",
            "-tp",
            metavar="N",
            min=1,
            help="GPUs that share the heads. [default: those of a node]",
        ),
    ] = None,
    pipeline_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--pipeline-parallel-size", "-pp", metavar="N", min=1, help="Nodes that share the layers. [default: all]"
        ),
    ] = None,
    data_parallel_size: Annotated[
        int | None,
        typer.Option("--data-parallel-size", "-dp", metavar="N", min=1, help="Copies of the attention. [default: 1]"),
    ] = None,
    enable_expert_parallel: Annotated[
        bool, typer.Option("--enable-expert-parallel", "-ep", help="Whole experts on each GPU.")
    ] = False,
    kv_cache_dtype: Annotated[
        str | None,
        typer.Option(
            "--kv-cache-dtype", metavar="DTYPE", autocompletion=complete_dtype, help="As for `check`. [default: auto]"
        ),
    ] = None,
    attention_backend: Annotated[
        str | None,
        typer.Option("--attention-backend", metavar="NAME", autocompletion=complete_backend, help="As for `check`."),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            "--max-model-len", metavar="TOKENS", min=1, help="Tokens of context. [default: the largest that fits]"
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option("--max-num-seqs", metavar="N", min=1, help="Requests at once. [default: vLLM's]")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory-utilization",
            metavar="SHARE",
            min=0.01,
            max=1.0,
            help="Share of the GPU for vLLM. [default: 0.92]",
        ),
    ] = None,
    cpu_offload_gb: Annotated[
        float | None,
        typer.Option("--cpu-offload-gb", metavar="GIB", min=0.0, help="GiB of weights per GPU. [default: 0]"),
    ] = None,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs.")] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Address to serve on. [default: all]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", min=1, max=65535, help="Port to serve on. [default: 8000]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would run, and why each flag.")] = False,
    emit: Annotated[Form | None, typer.Option("--emit", help="Write the launch for something else to run.")] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="Container image for --emit docker and lws.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on although something says that it cannot work.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the server running once it is ready.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", min=1.0, help="Seconds until it must be ready. [default: no limit]"
        ),
    ] = None,
    no_smoke: Annotated[bool, typer.Option("--no-smoke", help="Do not ask the smoke prompt.")] = False,
    stop_timeout: Annotated[
        float,
        typer.Option("--stop-timeout", metavar="SECONDS", min=0.1, help="Seconds that each stage of the stop waits."),
    ] = 30.0,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file", metavar="FILE", help="Where vLLM's log goes. [default: a new file in the state folder]"
        ),
    ] = None,
    vllm_executable: Annotated[
        str | None,
        typer.Option("--vllm-executable", metavar="PATH", help="The vllm command. [default: this environment's]"),
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", "-f", help="For --dry-run.")] = Format.HUMAN,
    no_cache: NoCache = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Also the whole check, every line of the plan, and why each flag is there."
        ),
    ] = False,
) -> None:
    """Serve a DSA model: check, plan the memory, choose the flags, start vLLM, verify it, stop it cleanly.

    Exit code: that of `check` where a layer is not resolved; 32 where memory or machine do not allow it, or the smoke
    prompt gets no sane answer; 124 not ready in time; 129, 130, 131 or 143 ended by a signal; else
    vLLM's own.
    """
    check_models([model])
    from dsa_doctor.inputs import UsageError  # pydantic and the probes: not for --help
    from dsa_doctor.launch.extra import ExtraArgumentError
    from dsa_doctor.launch.request import launch_options
    from dsa_doctor.launch.run import RunOptions, judge, make_ready, serve
    from dsa_doctor.render.launch import LaunchNarrator, render_prepared
    from dsa_doctor.render.plan import print_launch, print_plan_answer

    if nodes > 1 and emit is None and not dry_run:
        fail_usage(
            f"--nodes {nodes}: several nodes are started by something else. Add --emit shell, docker, lws or ray."
        )
    if image is not None and emit not in {Form.DOCKER, Form.LWS}:
        fail_usage("--image: only --emit docker and --emit lws start containers. Leave it out, or add one of them.")
    if output_format is Format.JSON and not dry_run:
        fail_usage("--format json: only a dry run is a document. Add --dry-run, or leave it out.")
    if detach and (dry_run or emit is not None):
        fail_usage("--detach: nothing is started here. Leave it out, or leave out --dry-run and --emit.")
    if image is not None:
        _check_image(image)
    given = {
        "gpus": gpus,
        "nodes": nodes,
        "tensor": tensor_parallel_size,
        "pipeline": pipeline_parallel_size,
        "data": data_parallel_size,
        "expert": enable_expert_parallel or None,
        "kv_cache_dtype": kv_cache_dtype,
        "attention_backend": attention_backend,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "gpu_memory_utilization": gpu_memory_utilization,
        "cpu_offload_gib": cpu_offload_gb,
        "enforce_eager": enforce_eager or None,
        "host": host,
        "port": port,
    }
    try:
        plugin_mode_of_environment()  # a typo is told before anything is gathered
        asked = launch_options(
            model,
            given,
            tuple(extra or ()),
            target=target,
            gpu_memory_gib=gpu_memory,
            executable=vllm_executable,
            elsewhere=target is not None or emit is not None,
        )
    except (ExtraArgumentError, UsageError) as error:
        fail_usage(str(error))
    dtype, backend = asked.kv_cache_dtype.value, asked.attention_backend.value
    check_choices(kv_cache_dtype=dtype, attention_backend=backend, foreign=vllm_executable is not None)
    as_data = dry_run and output_format is Format.JSON
    out = console(stderr=emit is not None or as_data)
    narrator = LaunchNarrator(console(stderr=True), verbose=verbose)
    try:
        with status(human=emit is None and not as_data):
            judged = judge(asked, keeper_for(no_cache=no_cache))
        verdict = judged.verdict
        if verdict.exit_code != 0 or verbose:
            _show_verdict(out, verdict, insists=force and verdict.exit_code != 0, verbose=verbose)
        preparation = make_ready(asked, judged, force=force)
        prepared = preparation.prepared
        if prepared is not None:
            print_launch(out, prepared, asked, holds=preparation.exit_code == 0, verbose=verbose)
        for note in preparation.notes:
            narrator.note(note)
        if prepared is not None:
            goes_on = preparation.exit_code == 0 and not dry_run
            print_plan_answer(out, prepared, exit_code=None if goes_on else preparation.exit_code)
        if prepared is not None and as_data:
            print_data(render_prepared(prepared))
        if prepared is None or preparation.exit_code != 0:
            raise typer.Exit(preparation.exit_code)
        if emit is not None:
            _emit(emit, asked, prepared, image)
        elif not dry_run:
            how = RunOptions(
                log=log_file,
                force=force,
                detach=detach,
                timeout=timeout,
                smoke=not no_smoke,
                stop_timeout=stop_timeout,
            )
            raise typer.Exit(serve(asked, prepared, how, narrator))
    except UsageError as error:
        fail_usage(str(error))


def _show_verdict(out: "Console", verdict: "Verdict", *, insists: bool, verbose: bool) -> None:
    from dsa_doctor.render.human import conclusion, print_verdict

    # Under --force the verdict's exit code is not the process's.
    said = conclusion(verdict).removesuffix(f" Exit code {verdict.exit_code}.")
    print_verdict(out, verdict, verbose=verbose, outcome=said if insists or verdict.exit_code == 0 else None)


def _check_image(image: str) -> None:
    from dsa_doctor.emit import EmitError, check_image

    try:
        check_image(image)
    except EmitError as error:
        fail_usage(str(error))


def _emit(form: Form, asked: "LaunchOptions", prepared: "Prepared", image: str | None) -> None:
    from dsa_doctor.emit import FORMS, EmitError, Launch, check_launch
    from dsa_doctor.launch.secrets import left_out

    passthrough, variables = left_out(asked.passthrough)
    for name in variables:
        sys.stderr.write(f"dsa-doctor: what is secret after -- is not written; what is written expects it in {name}\n")
    launch = Launch(
        name=prepared.model.name,
        model=prepared.served,
        flags=prepared.flags,
        variables=prepared.variables,
        extra=passthrough,
        secrets=variables,
        nodes=asked.nodes.value,
        gpus_per_node=prepared.plan.hardware.gpus_per_node,
        port=asked.port.value,
        host_memory_bytes=prepared.plan.host_bytes,
    )
    if image is not None:
        launch = launch.model_copy(update={"image": image})
    try:
        check_launch(launch)
    except EmitError as error:
        fail_usage(str(error))
    print_data(FORMS[form.value](launch))
