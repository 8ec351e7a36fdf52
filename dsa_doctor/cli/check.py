"""`dsa-doctor check`."""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa_doctor.cli.cache import NoCache, keeper_for
from dsa_doctor.cli.completion import complete_backend, complete_dtype, complete_model, complete_target
from dsa_doctor.cli.output import fail_usage
from dsa_doctor.cli.sinks import append_step_summary, parse_sinks, write_sinks, write_stdout
from dsa_doctor.cli.status import status
from dsa_doctor.cli.typed import check_choices, check_models, plugin_mode_of_environment
from dsa_doctor.render.formats import ReportFormat

if TYPE_CHECKING:
    from dsa_doctor.policy import Policy
    from dsa_doctor.probes.environment import Environment


class Format(str, Enum):
    """Output formats of the commands that list or gather."""

    HUMAN = "human"
    JSON = "json"


class Plugin(str, Enum):
    """What DSA_DOCTOR_PLUGIN may be."""

    AUTO = "auto"
    OFF = "off"
    FORCE = "force"


def check(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Known models (see `dsa-doctor models`), folders, config.json files, or Hub ids. [default: the "
            "policy's, or GLM-5-FP8]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="GPU",
            autocompletion=complete_target,
            help="A GPU (a100, 4090, ...), sm80 or 8.0; repeatable. [default: the policy's, or this machine's GPUs]",
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
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel-size",
            "-tp",
            metavar="N",
            min=1,
            help="Ranks that share the heads. [default: visible GPUs, or those of a usual machine]",
        ),
    ] = None,
    kv_cache_dtype: Annotated[
        str,
        typer.Option(
            "--kv-cache-dtype",
            metavar="DTYPE",
            autocompletion=complete_dtype,
            help="As for vLLM: auto, bfloat16, fp8, fp8_ds_mla, ...",
        ),
    ] = "auto",
    attention_backend: Annotated[
        str | None,
        typer.Option(
            "--attention-backend",
            metavar="NAME",
            autocompletion=complete_backend,
            help="A backend by name: it works, or the layer is unresolved.",
        ),
    ] = None,
    plugin: Annotated[
        Plugin | None,
        typer.Option(
            "--plugin",
            case_sensitive=False,
            help="Judge as if DSA_DOCTOR_PLUGIN were this. [default: as in the judged environment]",
        ),
    ] = None,
    facts: Annotated[
        list[Path] | None,
        typer.Option(
            "--facts",
            metavar="FILE",
            help="Judge a file made by `dsa-doctor facts`, not this machine; - reads the input; repeatable.",
        ),
    ] = None,
    wheel: Annotated[
        list[Path] | None,
        typer.Option("--wheel", metavar="FILE", help="Judge a wheel of vLLM that is not installed; repeatable."),
    ] = None,
    python: Annotated[
        list[Path] | None,
        typer.Option(
            "--python",
            metavar="PATH",
            help="Judge another interpreter's environment, or a site-packages folder; repeatable.",
        ),
    ] = None,
    no_execute: Annotated[
        bool,
        typer.Option(
            "--no-execute",
            help="Run nothing of what is judged: read its files alone. What vLLM's selector would say stays unknown.",
        ),
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            "--config",
            metavar="FILE",
            help="TOML file with the policy. [default: dsa-doctor.toml or pyproject.toml of this folder]",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail the run.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="File that pins vLLM: requirements.txt, pyproject.toml or a Dockerfile."
        ),
    ] = None,
    output_format: Annotated[
        ReportFormat, typer.Option("--format", "-f", help="What to print on standard output.")
    ] = ReportFormat.HUMAN,
    output: Annotated[
        list[str] | None, typer.Option("--output", "-o", metavar="FORMAT=PATH", help="Also write a file; repeatable.")
    ] = None,
    no_cache: NoCache = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also the evidence of what passed.")] = False,
) -> None:
    """Say whether DSA models run on GPUs, layer by layer, and why.

    Exit code: 0 all resolved; 4, 8, 16 added for unresolved layers 1 csrc, 2 attention, 3 indexer; 32 could not be
    determined; 2 wrong usage. Of several combinations the bits are joined.
    """
    check_models(_models(models))
    # pydantic and the probes: not for --help
    from dsa_doctor.inputs import Options, UsageError
    from dsa_doctor.policy import PolicyError, apply_policy
    from dsa_doctor.policy.manifest import ManifestError, find_pin
    from dsa_doctor.preflight import judge_fleet
    from dsa_doctor.probes.elsewhere import UnusableEnvironmentError

    sinks = parse_sinks(output or [])
    keeper = keeper_for(no_cache=no_cache)
    try:
        rules = _policy(policy, strict=strict)
        pin = find_pin(manifest) if manifest is not None else None
        plugin_mode_of_environment()  # a typo is told before anything is gathered
        options = Options(
            tensor_parallel_size=tensor_parallel_size,
            kv_cache_dtype=kv_cache_dtype,
            backend=attention_backend,
            plugin_mode=plugin.value if plugin is not None else None,
            gpu_memory_gib=gpu_memory,
        )
        asked = _once(models or rules.models), _once(target or rules.targets)
        check_models(rules.models)
        dtype = kv_cache_dtype if kv_cache_dtype != "auto" else None
        foreign = bool(wheel or python)
        check_choices(kv_cache_dtype=dtype, attention_backend=attention_backend, foreign=foreign)
        with status(human=output_format is ReportFormat.HUMAN):
            judged = [
                (label, verdict)
                for label, facts_file, environment in _environments(
                    facts or [], wheel or [], python or [], execute=not no_execute
                )
                for verdict in judge_fleet(
                    *asked, options, facts_file=facts_file, environment=environment, keeper=keeper
                )
            ]
    except (UsageError, PolicyError, ManifestError, UnusableEnvironmentError) as error:
        fail_usage(str(error))
    report = apply_policy(judged, rules, today=datetime.now(timezone.utc).date(), manifest=pin)
    write_sinks(report, sinks)
    if output_format is ReportFormat.GITHUB or any(sink.form is ReportFormat.GITHUB for sink in sinks):
        append_step_summary(report)
    write_stdout(report, output_format, verbose=verbose)
    raise typer.Exit(report.exit_code)


def _policy(path: Path | None, *, strict: bool) -> "Policy":
    from dsa_doctor.policy import find_policy, load_policy

    found = load_policy(path) if path is not None else find_policy(Path.cwd())
    return found.model_copy(update={"strict": True}) if strict else found


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _models(texts: list[str] | None) -> list[str]:
    """Return the models; a wheel among them is a pattern that the shell expanded to several."""
    for text in texts or []:
        if text.endswith(".whl"):
            fail_usage(f"MODEL {text!r} is a wheel. Give each wheel a --wheel of its own, or quote the pattern.")
    return texts or []


def _environments(
    facts: list[Path], wheels: list[Path], pythons: list[Path], *, execute: bool
) -> "Iterator[tuple[str | None, Path | None, Environment | None]]":
    """Yield what to judge: its name, its facts file or its environment; a lone facts file needs no name."""
    from dsa_doctor.probes.elsewhere import environment_of_python, environment_of_wheel
    from dsa_doctor.probes.environment import Environment
    from dsa_doctor.redaction import redact

    if not (facts or wheels or pythons):
        yield None, None, None if execute else Environment.current().files_alone()
    for file in facts:
        alone = len(facts) == 1 and not wheels and not pythons
        yield None if alone else redact(str(file)), file, None
    for path in [one for pattern in wheels for one in _matches(pattern)]:
        with environment_of_wheel(path, execute=execute) as unpacked:
            _say_if_it_runs(unpacked, "--wheel", path.name)
            yield path.name, None, unpacked
    for path in pythons:
        found = environment_of_python(path, execute=execute)
        _say_if_it_runs(found, "--python", redact(str(path)))
        yield redact(str(path)), None, found


def _say_if_it_runs(environment: "Environment", option: str, name: str) -> None:
    """Say on standard error that foreign code is about to run, and with what."""
    from dsa_doctor.probes.isolation import without_network
    from dsa_doctor.reading import one_line

    if environment.python is not None:
        network = "without" if without_network() else "with"
        sys.stderr.write(
            f"dsa-doctor: {option} {one_line(name)}: its vLLM is imported, which runs its code with this account's "
            f"rights, {network} network, without this environment's tokens; --no-execute reads its files alone.\n"
        )


def _matches(pattern: Path) -> list[Path]:
    """Return the files of a pattern that no shell expanded; anything else as it is."""
    if pattern.exists() or not any(character in pattern.name for character in "*?["):
        return [pattern]
    return sorted(pattern.parent.glob(pattern.name)) or [pattern]
