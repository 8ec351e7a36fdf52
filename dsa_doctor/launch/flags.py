"""The flags of a launch: value, reason and origin of each, checked against what the installed vLLM knows."""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from dsa_doctor.catalog.capability import Capability, plugin_serves
from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.facts.observation import Fact
from dsa_doctor.launch.options import KnownOptions
from dsa_doctor.launch.recipes import recipe_for
from dsa_doctor.launch.request import Choice, LaunchOptions
from dsa_doctor.planner.plan import Plan
from dsa_doctor.verdict.schema import TargetInfo, Verdict

READY_TIMEOUT = 3600
"""Seconds for VLLM_ENGINE_READY_TIMEOUT_S: loading and warm-up of these models exceed vLLM's 600."""
_LARGE_CHECKPOINT = 100 * 10**9

_RESOLVER, _PLAN = "resolver", "memory plan"
_USER: Final = "command line"


class Flag(Fact):
    """One flag: `value` None is a switch."""

    option: str
    value: str | None = None
    why: str
    source: str

    @property
    def arguments(self) -> list[str]:
        """Return the flag as arguments."""
        return [self.option] if self.value is None else [self.option, self.value]


class Variable(Fact):
    """One environment variable of the server."""

    name: str
    value: str
    why: str
    source: str


class Checked(NamedTuple):
    """Flags that vLLM knows, and a warning for each that it does not."""

    flags: tuple[Flag, ...]
    warnings: tuple[str, ...]


def launch_flags(verdict: Verdict, model: ModelGeometry, plan: Plan, options: LaunchOptions) -> tuple[Flag, ...]:
    """Return the flags that the verdict, the plan, the recipe and the user imply, in this order."""
    flags = [*_selection(verdict), *_sizes(plan, options)]
    recipe = recipe_for(model)
    if recipe is not None:
        flags += [Flag(option=one.option, value=one.value, why=one.why, source=recipe.source) for one in recipe.flags]
    flags += _address(options)
    return (*flags, *_advised(verdict, {flag.option for flag in flags}))


def advice_of(finding_id: str) -> str:
    """Return the source of a flag that a finding advises."""
    return f"advice of {finding_id}"


def launch_variables(verdict: Verdict, plan: Plan) -> tuple[Variable, ...]:
    """Return the environment variables of the server."""
    variables = []
    configuration, target = verdict.configuration, verdict.target
    if configuration is not None and configuration.uses_plugin:
        why = "the plugin serves what this GPU lacks; the layers it takes are in the verdict"
        variables.append(Variable(name="DSA_DOCTOR_PLUGIN", value=_plugin_mode(target), why=why, source=_RESOLVER))
    if target is not None and configuration is not None and configuration.uses_plugin and _is_ours(target):
        why = f"DeepGEMM has no kernels for {target.sm}: nothing must try it"
        variables.append(Variable(name="VLLM_USE_DEEP_GEMM", value="0", why=why, source=_RESOLVER))
    if plan.disk_bytes > _LARGE_CHECKPOINT:
        why = "loading and warm-up of a checkpoint of this size take longer than vLLM's 600 s"
        variables.append(Variable(name="VLLM_ENGINE_READY_TIMEOUT_S", value=str(READY_TIMEOUT), why=why, source=_PLAN))
    return tuple(variables)


def verified(flags: Sequence[Flag], known: KnownOptions, options: LaunchOptions) -> Checked:
    """Leave out what vLLM does not know, with a warning, and what reaches it without us, silently."""
    kept, warnings = [], []
    for flag in flags:
        if flag.option in options.passed_on or (flag.option in options.in_file and flag.source != _USER):
            continue
        if known.problem is not None:
            kept.append(flag)
        elif not known.knows(flag.option):
            warnings.append(f"{flag.option} is left out: this vLLM does not know it ({flag.source})")
        elif flag.value is not None and known.accepts(flag.option, flag.value) is False:
            warnings.append(
                f"{flag.option} {flag.value} is left out: this vLLM does not accept that value ({flag.source})"
            )
        else:
            kept.append(flag)
    dropped = {flag.option for flag in flags} - {flag.option for flag in kept} - options.passed_on - options.in_file
    if "--tool-call-parser" in dropped:
        # vLLM refuses automatic tool choice without a parser.
        kept = [flag for flag in kept if flag.option != "--enable-auto-tool-choice"]
    if known.problem is not None:
        warnings.append(f"the flags are not checked here; the vLLM that serves does so at its start: {known.problem}")
    return Checked(tuple(kept), tuple(warnings))


def server_command(executable: Sequence[str], model: str, flags: Sequence[Flag], extra: Sequence[str]) -> list[str]:
    """Return the argument vector; what the user gave after `--` comes last, so that it wins."""
    arguments = [argument for flag in flags for argument in flag.arguments]
    return [*executable, "serve", model, *arguments, *extra]


def _selection(verdict: Verdict) -> list[Flag]:
    configuration = verdict.configuration
    if configuration is None:
        return []
    layer = next((one for one in verdict.layers if one.layer == "attention"), None)
    why = layer.reason if layer is not None else "chosen for this GPU"
    flags = []
    if configuration.attention_backend != "auto":
        flags.append(
            Flag(option="--attention-backend", value=configuration.attention_backend, why=why, source=_RESOLVER)
        )
    why = "what that backend serves" if configuration.kv_cache_dtype != "auto" else "the model's own type"
    flags.append(Flag(option="--kv-cache-dtype", value=configuration.kv_cache_dtype, why=why, source=_RESOLVER))
    if configuration.block_size is not None:
        why = "tokens per KV page that the paged indexer cache is laid out for"
        flags.append(Flag(option="--block-size", value=str(configuration.block_size), why=why, source=_RESOLVER))
    return flags


def _advised(verdict: Verdict, taken: Collection[str]) -> list[Flag]:
    """Return the flags that warnings of the verdict advise, where nothing else sets the option."""
    flags: dict[str, Flag] = {}
    for one in verdict.findings:
        if one.status != "warn" or one.judge_only or not one.remedy or not one.remedy[0].startswith("--"):
            continue
        option, _, value = one.remedy[0].partition("   #")[0].strip().partition(" ")
        if option not in taken:
            flags.setdefault(
                option, Flag(option=option, value=value or None, why=one.summary, source=advice_of(one.id))
            )
    return list(flags.values())


def _sizes(plan: Plan, options: LaunchOptions) -> list[Flag]:
    parallel = plan.parallel
    flags = []
    for option, size, choice, why in (
        (
            "--tensor-parallel-size",
            parallel.tensor,
            options.tensor,
            "GPUs that share the heads and the experts of a layer",
        ),
        ("--pipeline-parallel-size", parallel.pipeline, options.pipeline, "nodes that share the layers"),
        ("--data-parallel-size", parallel.data, options.data, "copies of the attention"),
    ):
        if size > 1 or choice.source == _USER:
            source = choice.source if choice.is_given else _PLAN
            flags.append(Flag(option=option, value=str(size), why=why, source=source))
    if options.expert.value:
        flags.append(Flag(option="--enable-expert-parallel", why="whole experts per GPU", source=options.expert.source))
    if options.max_model_len.is_given:
        flags += _asked("--max-model-len", options.max_model_len)
    elif (
        (plan.fits or plan.estimates_decide)
        and plan.max_model_len is not None
        and plan.max_model_len < plan.native_context
    ):
        why = f"the largest context that fits (estimated); the model's own is {plan.native_context:,}"
        flags.append(Flag(option="--max-model-len", value=str(plan.max_model_len), why=why, source=_PLAN))
    flags += _asked("--max-num-seqs", options.max_num_seqs)
    if plan.sets_batch and (plan.fits or plan.estimates_decide):
        why = "smaller than vLLM's default, so that its profile run leaves room for the KV cache"
        if not options.max_num_batched_tokens.is_given:
            flags.append(Flag(option="--max-num-batched-tokens", value=str(plan.batched_tokens), why=why, source=_PLAN))
        if not options.max_num_seqs.is_given:
            flags.append(Flag(option="--max-num-seqs", value=str(plan.sequences), why=why, source=_PLAN))
    flags += _asked("--gpu-memory-utilization", options.gpu_memory_utilization)
    if not options.gpu_memory_utilization.is_given and plan.budget_bytes is not None:
        why = "the share of the GPU that the plan reckons with"
        share = f"{plan.gpu_memory_utilization:g}"
        flags.append(Flag(option="--gpu-memory-utilization", value=share, why=why, source=_PLAN))
    flags += _asked("--cpu-offload-gb", options.cpu_offload_gib)
    if options.enforce_eager.value:
        source = options.enforce_eager.source
        flags.append(Flag(option="--enforce-eager", why="no CUDA graphs: asked for", source=source))
    return flags


def _address(options: LaunchOptions) -> list[Flag]:
    port = options.port
    why = "asked for" if port.is_given else "vLLM's default; readiness is asked there"
    return [
        *_asked("--host", options.host),
        Flag(option="--port", value=str(port.value), why=why, source=port.source),
    ]


def _asked(option: str, choice: Choice[Any]) -> list[Flag]:
    """Return the flag of a value that the user chose; none for a default, or for a choice that is left to vLLM."""
    if not choice.is_given or choice.value is None:
        return []
    value = f"{choice.value:g}" if isinstance(choice.value, float) else str(choice.value)
    return [Flag(option=option, value=value, why="asked for", source=choice.source)]


def _plugin_mode(target: TargetInfo | None) -> str:
    """Return the mode under which the plugin acts there, as the verdict has it: auto acts on 8.x alone."""
    return "auto" if target is None or _is_ours(target) else "force"


def _is_ours(target: TargetInfo) -> bool:
    """Whether the plugin acts there by default: on GPUs that DeepGEMM has no kernels for."""
    return plugin_serves(Capability.parse(target.capability)) == "default"
