"""A launch from end to end: judge, plan, look at this machine, start, watch. What happens is told to a listener.

Nothing here prints or exits: every step returns data, and the last one the exit code.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from dsa_doctor.cache import Keeper
from dsa_doctor.catalog.lookup import NamedModel, look_up
from dsa_doctor.catalog.targets import gpus_per_node
from dsa_doctor.inputs import Options, UsageError
from dsa_doctor.launch.aftermath import diagnosis, leftovers
from dsa_doctor.launch.endpoint import endpoint_of
from dsa_doctor.launch.options import KnownOptions, known_options
from dsa_doctor.launch.outlets import Listener, LogCopy, Relay
from dsa_doctor.launch.prepare import (
    Prepared,
    conditions_for,
    own_vllm,
    parallel_of,
    prepare,
    vllm_options,
)
from dsa_doctor.launch.process import LaunchError, Server
from dsa_doctor.launch.request import LaunchOptions
from dsa_doctor.launch.secrets import Mask, secrets_of
from dsa_doctor.launch.watch import SMOKE_SECONDS, Interruptions, Outcome, Watcher, WatchOptions
from dsa_doctor.planner.parallel import Parallel
from dsa_doctor.preflight import judge_with_facts
from dsa_doctor.probes.gather import visible_gpus
from dsa_doctor.processes.interrupt import signals_to
from dsa_doctor.verdict.schema import Verdict

_STDOUT = 1
_PATIENCE = 2.0
_PATIENCE_OF_AN_INTERRUPT = 0.5
"""Seconds for which a reader that takes nothing is waited for at the end."""
EXIT_WILL_NOT_RUN = 32
"""The layers are resolved, but the memory plan or a condition of this machine says that it cannot run."""


@dataclass(frozen=True)
class RunOptions:
    """How to start and watch the server.

    Attributes:
        log: file that takes its output; None makes a new one in the state folder.
        force: go on although something says that it cannot work.
        detach: leave the server running once it is ready.
        timeout: seconds until it must be ready; None waits as long as it runs.
        smoke: ask the smoke prompt.
        stop_timeout: seconds that each stage of the stop waits.
        smoke_timeout: seconds in which the smoke prompt must be answered.
    """

    log: Path | None = None
    force: bool = False
    detach: bool = False
    timeout: float | None = None
    smoke: bool = True
    stop_timeout: float = 30.0
    smoke_timeout: float = SMOKE_SECONDS


@dataclass(frozen=True)
class Preparation:
    """What is known before a start.

    Attributes:
        prepared: the launch; None where the verdict says no and nothing insists, or the model is not known.
        exit_code: 0 where the launch may go on.
        notes: what else is to be said, a sentence each.
    """

    prepared: Prepared | None
    exit_code: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What is known of a launch before its memory is planned.

    Attributes:
        model: what MODEL names.
        verdict: as `check` gives it.
        gpus: of each node that it is planned for.
        known: the options of the vLLM that would be started, told by the import that asked its selector; None where
            that was another vLLM, or told nothing.
    """

    model: NamedModel
    verdict: Verdict
    gpus: int
    known: KnownOptions | None = None


def judge(options: LaunchOptions, keeper: Keeper | None = None) -> Judged:
    """Judge a launch as `check` does.

    Args:
        options: what was asked for.
        keeper: gives and takes answers that an earlier run got; None asks everything anew.

    Raises:
        UsageError: an option cannot be met.
    """
    inventory = visible_gpus() if options.target is None else None
    found = inventory.value if inventory is not None else None
    visible = sum(1 for gpu in found.gpus if gpu.visible) if found is not None else 0
    gpus = options.gpus.value or visible or (gpus_per_node(options.target or "") if options.elsewhere else 1)
    model = look_up(options.model)
    tensor, pipeline = options.tensor.value or 1, 1  # where the model is not known: preflight says so
    if model.geometry is not None:
        parallel = parallel_of(options, model.geometry, gpus)
        if options.gpus.is_given or visible or options.elsewhere:
            _check_sizes(parallel, options, gpus)
        tensor, pipeline = parallel.tensor, parallel.pipeline
    asked = Options(
        target=options.target,
        tensor_parallel_size=tensor,
        kv_cache_dtype=options.kv_cache_dtype.value or "auto",
        backend=options.attention_backend.value,
        dtype=options.dtype.value,
        pipeline_parallel_size=pipeline,
        decode_context_parallel_size=options.decode_context.value,
        prefill_context_parallel_size=options.prefill_context.value,
        drafts=options.drafts.value or int(options.speculative.value),
        enforce_eager=options.enforce_eager.value,
        gpu_memory_gib=options.gpu_memory_gib,
    )
    targets = [options.target] if options.target is not None else []
    asks = options.executable is None and own_vllm() is not None
    verdicts, facts = judge_with_facts([model], targets, asked, keeper=keeper, serve_options=asks, inventory=inventory)
    return Judged(model, verdicts[0], gpus, known_options(facts.selector) if asks else None)


def _check_sizes(parallel: Parallel, options: LaunchOptions, gpus: int) -> None:
    """Refuse parallel sizes that need more GPUs than there are: no memory plan would notice.

    Raises:
        UsageError: they do.
    """
    nodes = options.nodes.value
    if parallel.world_size > nodes * gpus:
        sizes = f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x data {parallel.data}"
        there = f"{nodes} x {gpus}" if nodes > 1 else str(gpus)
        raise UsageError(
            f"The parallel sizes ({sizes}) need {parallel.world_size} GPUs, and there are {there}. Lower them, or give "
            "more with --gpus (GPUs per node) or --nodes."
        )


def make_ready(options: LaunchOptions, judged: Judged, *, force: bool) -> Preparation:
    """Return the launch that a verdict allows, or why there is none.

    Where the options of vLLM are not known yet, its command is asked for them, which may take long.
    """
    verdict, model = judged.verdict, judged.model.geometry
    if verdict.exit_code != 0 and not force:
        return Preparation(None, verdict.exit_code)
    notes = []
    if verdict.exit_code != 0:
        notes.append(
            f"--force: going on although check says no (exit code {verdict.exit_code}). It may fail, or answer wrongly."
        )
    if model is None:
        return Preparation(None, verdict.exit_code or EXIT_WILL_NOT_RUN, (*notes, judged.model.problem))
    prepared = prepare(options, model, verdict, judged.gpus, lambda: judged.known or vllm_options(options.executable))
    notes += [f"warning: {warning}" for warning in prepared.warnings]
    if prepared.plan.fits is False and not force:
        return Preparation(prepared, EXIT_WILL_NOT_RUN, tuple(notes))
    if prepared.plan.fits is False:
        notes.append("--force: going on although the memory plan says that it does not fit.")
    return Preparation(prepared, 0, tuple(notes))


def serve(asked: LaunchOptions, prepared: Prepared, options: RunOptions, listener: Listener) -> int:
    """Start the server, watch it to its end, and return the exit code of what became of it."""
    endpoint = endpoint_of(asked)
    taken_by = tuple(endpoint.listeners() or ())
    conditions = conditions_for(asked, prepared, endpoint)
    mask = Mask([endpoint.api_key, *secrets_of(asked.passthrough), *(asked.api_keys.value or ())])
    relay = Relay(listener, mask)
    relay.conditions(conditions)
    failed = [one for one in conditions if one.status == "fail"]
    if any(one.name == "vLLM" for one in failed) or (failed and not options.force):
        relay.close(_PATIENCE)
        return EXIT_WILL_NOT_RUN
    environment = {one.name: one.value for one in prepared.variables if one.name not in os.environ}
    interruptions = Interruptions()
    with signals_to(interruptions):
        try:
            server = Server(
                list(prepared.arguments),
                log=options.log or default_log(prepared.model.name),
                environment=environment,
                grace=options.stop_timeout,
            )
        except LaunchError as error:
            relay.note(str(error))
            relay.close(_PATIENCE)
            return EXIT_WILL_NOT_RUN
        relay.note(f"started, pid {server.pid}; log: {server.log.path}")
        if endpoint.socket_path is not None:
            relay.note(f"it will listen on the Unix domain socket {endpoint.socket_path}")
        copy = LogCopy(server.log, _STDOUT, mask)
        watcher = Watcher(
            server,
            WatchOptions(
                endpoint=endpoint,
                taken_by=taken_by,
                timeout=options.timeout,
                smoke=options.smoke,
                smoke_timeout=options.smoke_timeout,
                tolerate=options.force,
                detach=options.detach,
            ),
            interruptions,
            on_stage=relay.stage,
            on_ready=lambda ready: relay.ready(ready, endpoint.url, prepared.plan),
            on_note=relay.note,
        )
        outcome = watcher.run()
    patience = _PATIENCE_OF_AN_INTERRUPT if outcome.reason == "interrupted" else _PATIENCE
    if unseen := copy.close(patience):
        relay.note(f"{unseen:,} bytes not shown, because standard output took no more; see the log {server.log.path}")
    if outcome.reason == "detached":
        relay.note(f"left running; to stop it: kill {server.supervisor_pid}")
    else:
        for line in end_lines(outcome, server, options.timeout):
            relay.note(line)
    relay.close(patience)
    return outcome.code


def end_lines(outcome: Outcome, server: Server, timeout: float | None) -> list[str]:
    """Return what is to be said of a server's end: why, what its log shows, what is left, the exit code last."""
    lines = []
    if outcome.reason == "not ready in time":
        lines.append(f"not ready within {timeout:.0f} s (--timeout); last stage: {outcome.facts.stage}")
    elif outcome.reason == "smoke prompt" and outcome.answer is not None:
        lines.append(f"stopped, because {outcome.answer.problem}")
    elif outcome.reason == "ended":
        before = "" if outcome.ready_seconds is not None else f" before it was ready (stage: {outcome.facts.stage})"
        lines.append(f"vLLM ended by itself{before}, exit code {outcome.code}")
    if outcome.reason in {"ended", "not ready in time"} and outcome.code != 0:
        lines += diagnosis(server.log)
    return [*lines, *leftovers(server), f"exit code {outcome.code}"]


def default_log(name: str) -> Path:
    """Return a new log file in the user's state folder, named after the model, the time and this process."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    safe = "".join(one if one.isalnum() or one in "-._" else "-" for one in name)
    return state / "dsa-doctor" / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
