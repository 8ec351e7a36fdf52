"""Flags with their origin, checked against what a vLLM says that it knows."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from dsa_doctor.catalog.models import KNOWN_MODELS, find_model
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Selector, ServeOption, ServeOptions
from dsa_doctor.launch import (
    ask_options,
    launch_flags,
    launch_options,
    launch_variables,
    read_extra,
    server_command,
    verified,
)
from dsa_doctor.launch.drafts import drafts_left_out
from dsa_doctor.launch.extra import ExtraArgumentError
from dsa_doctor.launch.options import KnownOptions, known_options, parse_help
from dsa_doctor.launch.recipes import recipe_for
from dsa_doctor.planner import Hardware, Parallel, PlanOptions, plan
from dsa_doctor.verdict.schema import Configuration, Finding, Layer, Software, TargetInfo, Verdict
from tests.dsa_doctor.launch.stand_in import HELP

GIB = 2**30
KNOWN = parse_help(HELP)


def _verdict(*, plugin=True, capability="8.0"):
    configuration = Configuration(
        attention_backend="TRITON_MLA_SPARSE" if plugin else "FLASHMLA_SPARSE",
        kv_cache_dtype="auto",
        block_size=64,
        uses_plugin=plugin,
        fallbacks={},
    )
    return Verdict(
        dsa_doctor_version="0",
        target=TargetInfo(name="NVIDIA A100 80GB", capability=capability, sm="sm80", source="--target"),
        model=None,
        software=Software(dsa_doctor="0"),
        layers=(Layer(number=2, layer="attention", state="plugin", reason="the plugin serves it"),),
        findings=(),
        backends=(),
        configuration=configuration,
        exit_code=0,
    )


def _plan(model="GLM-5-FP8", nodes=2, **options):
    hardware = Hardware(name="NVIDIA A100 80GB", gpus_per_node=8, nodes=nodes, memory_bytes=80 * GIB)
    parallel = Parallel(tensor=8, pipeline=nodes)
    return plan(find_model(model).geometry(), hardware, PlanOptions(parallel=parallel, **options))


def _flags(model="GLM-5-FP8", asked=None, **options):
    return launch_flags(
        _verdict(), find_model(model).geometry(), _plan(model, **options), asked or launch_options(model)
    )


def _checked(known, extra=(), given=None):
    asked = launch_options("GLM-5-FP8", given, extra)
    return verified(_flags(asked=asked), known, asked)


def test_every_flag_has_a_reason_and_an_origin():
    flags = {flag.option: flag for flag in _flags()}
    assert flags["--attention-backend"].value == "TRITON_MLA_SPARSE"
    assert flags["--attention-backend"].source == "resolver"
    assert flags["--tensor-parallel-size"].value == "8"
    assert flags["--pipeline-parallel-size"].value == "2"
    assert flags["--tool-call-parser"].value == "glm47"
    assert flags["--reasoning-parser"].value == "glm45"
    assert flags["--tool-call-parser"].source == "recipe zai-org/GLM-5 @ 03927c9"
    assert all(flag.why and flag.source for flag in flags.values())
    assert "--max-model-len" not in flags, "the whole context fits"


def test_what_a_warning_advises_is_in_the_command_unless_the_user_says_otherwise():
    advice = Finding(
        id="DSA902", layer="runtime", status="warn", summary="wrong tokens", remedy=("--topk-op per_row   # slower",)
    )
    taken = advice.model_copy(update={"id": "DSA903", "remedy": ("--kv-cache-dtype bfloat16",)})
    verdict = _verdict().model_copy(update={"findings": (advice, taken)})
    model, options = find_model("GLM-5-FP8").geometry(), launch_options("GLM-5-FP8")
    flags = launch_flags(verdict, model, _plan(), options)
    assert [(one.value, one.source, one.why) for one in flags if one.option == "--topk-op"] == [
        ("per_row", "advice of DSA902", "wrong tokens")
    ]
    assert [one.value for one in flags if one.option == "--kv-cache-dtype"] == ["auto"]
    known = KnownOptions(frozenset(one.option for one in flags), {})
    own = launch_options("GLM-5-FP8", None, ["--topk-op", "auto"])
    assert "--topk-op" not in {one.option for one in verified(flags, known, own).flags}


def test_what_the_plan_shortens_is_said():
    flags = {flag.option: flag for flag in _flags("GLM-5.2-FP8")}
    assert 32768 <= int(flags["--max-model-len"].value) < 1048576
    assert flags["--max-model-len"].source == "memory plan"


SIZED = {"fits": True, "estimates_decide": False, "max_model_len": 1000, "native_context": 1000, "sets_batch": False,
         "batched_tokens": 512, "sequences": 7, "budget_bytes": 1, "gpu_memory_utilization": 0.9,
         "parallel": Parallel(tensor=8, pipeline=2, data=1)}  # fmt: skip
CASES = {
    "nothing but the defaults": ({}, {}, {}),
    "one GPU": ({}, {"parallel": Parallel()}, {}),
    "one GPU, asked for": ({}, {"parallel": Parallel()}, {"tensor": 1, "pipeline": 1, "data": 1}),
    "replicas of the attention": ({}, {"parallel": Parallel(tensor=4, data=2)}, {"data": 2, "expert": True}),
    "vLLM chooses": ({"attention_backend": "auto", "block_size": None, "kv_cache_dtype": "bfloat16"}, {}, {}),
    "nobody chooses": (None, {}, {}),
    "a shorter context": ({}, {"max_model_len": 999}, {}),
    "a shorter context that estimates decide": ({}, {"max_model_len": 999, "fits": None, "estimates_decide": True}, {}),
    "no context known": ({}, {"max_model_len": None}, {}),
    "does not fit": ({}, {"max_model_len": 999, "fits": False, "sets_batch": True}, {}),
    "a smaller batch": ({}, {"sets_batch": True}, {}),
    "a smaller batch that estimates decide": ({}, {"sets_batch": True, "fits": None, "estimates_decide": True}, {}),
    "half of the batch is the user's": ({}, {"sets_batch": True}, {"max_num_seqs": 3}),
    "the other half": ({}, {"sets_batch": True}, ["--max-num-batched-tokens", "256"]),
    "no memory known": ({}, {"budget_bytes": None}, {}),
    "whatever there is an option for is the user's": (
        {}, {"max_model_len": 999},
        {"tensor": 8, "pipeline": 2, "max_model_len": 500, "max_num_seqs": 3, "gpu_memory_utilization": 0.5,
         "cpu_offload_gib": 1.5, "enforce_eager": True, "host": "::1", "port": 9},
    ),
}  # fmt: skip
CHOSEN = "r --attention-backend TRITON_MLA_SPARSE r --kv-cache-dtype auto r --block-size 64"
RANKS = "p --tensor-parallel-size 8 p --pipeline-parallel-size 2"
REST = "p --gpu-memory-utilization 0.9 d --port 8000"
COMMANDS = {
    "nothing but the defaults": f"{CHOSEN} {RANKS} {REST}",
    "one GPU": f"{CHOSEN} {REST}",
    "one GPU, asked for": (
        f"{CHOSEN} u --tensor-parallel-size 1 u --pipeline-parallel-size 1 u --data-parallel-size 1 {REST}"
    ),
    "replicas of the attention": (
        f"{CHOSEN} p --tensor-parallel-size 4 u --data-parallel-size 2 u --enable-expert-parallel {REST}"
    ),
    "vLLM chooses": f"r --kv-cache-dtype bfloat16 {RANKS} {REST}",
    "nobody chooses": f"{RANKS} {REST}",
    "a shorter context": f"{CHOSEN} {RANKS} p --max-model-len 999 {REST}",
    "a shorter context that estimates decide": f"{CHOSEN} {RANKS} p --max-model-len 999 {REST}",
    "no context known": f"{CHOSEN} {RANKS} {REST}",
    "does not fit": f"{CHOSEN} {RANKS} {REST}",
    "a smaller batch": f"{CHOSEN} {RANKS} p --max-num-batched-tokens 512 p --max-num-seqs 7 {REST}",
    "a smaller batch that estimates decide": (
        f"{CHOSEN} {RANKS} p --max-num-batched-tokens 512 p --max-num-seqs 7 {REST}"
    ),
    "half of the batch is the user's": f"{CHOSEN} {RANKS} u --max-num-seqs 3 p --max-num-batched-tokens 512 {REST}",
    "the other half": f"{CHOSEN} {RANKS} p --max-num-seqs 7 {REST}",
    "no memory known": f"{CHOSEN} {RANKS} d --port 8000",
    "whatever there is an option for is the user's": (
        f"{CHOSEN} u --tensor-parallel-size 8 u --pipeline-parallel-size 2 u --max-model-len 500"
        " u --max-num-seqs 3 u --gpu-memory-utilization 0.5 u --cpu-offload-gb 1.5 u --enforce-eager"
        " u --host ::1 u --port 9"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_command_that_follows(name):
    """What is given, and by whom: resolver, plan, user or default (r, p, u, d); the recipe's flags are left out."""
    chosen, sizes, given = CASES[name]
    verdict = _verdict()
    configuration = verdict.configuration.model_copy(update=chosen) if chosen is not None else None
    flags = launch_flags(
        verdict.model_copy(update={"configuration": configuration}),
        find_model("GLM-5-FP8").geometry(),
        _plan().model_copy(update={**SIZED, **sizes}),
        launch_options("GLM-5-FP8", *((None, given) if isinstance(given, list) else (given,))),
    )
    letters = {"resolver": "r", "memory plan": "p", "command line": "u", "default": "d"}
    told = " ".join(f"{letters[one.source]} {' '.join(one.arguments)}" for one in flags if one.source in letters)
    assert told == COMMANDS[name]


def test_nothing_trusts_remote_code_or_uses_the_dead_variable():
    for known in KNOWN_MODELS:
        model = known.geometry()
        found = plan(
            model,
            Hardware(name="x", gpus_per_node=8, memory_bytes=180 * GIB),
            PlanOptions(parallel=Parallel(tensor=8)),
        )
        flags = launch_flags(_verdict(), model, found, launch_options(known.name))
        assert not any("trust" in flag.option for flag in flags)
        assert not any("ATTENTION_BACKEND" in one.name for one in launch_variables(_verdict(), found))


def test_the_environment_of_the_plugin():
    variables = {one.name: one.value for one in launch_variables(_verdict(), _plan())}
    assert variables == {
        "DSA_DOCTOR_PLUGIN": "auto",
        "VLLM_USE_DEEP_GEMM": "0",
        "VLLM_ENGINE_READY_TIMEOUT_S": "3600",
    }
    assert "DSA_DOCTOR_PLUGIN" not in {one.name for one in launch_variables(_verdict(plugin=False), _plan())}
    verdict = _verdict()
    assert verdict.target is not None
    there = verdict.model_copy(update={"target": verdict.target.model_copy(update={"capability": "12.0"})})
    variables = {one.name: one.value for one in launch_variables(there, _plan())}
    assert variables["DSA_DOCTOR_PLUGIN"] == "force"
    assert "VLLM_USE_DEEP_GEMM" not in variables, "DeepGEMM has kernels for 12.x"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("GLM-5", "GLM-5.yaml"), ("GLM-5-FP8", "GLM-5.yaml"), ("GLM-5.1-NVFP4", "GLM-5.1.yaml"),
        ("GLM-5.2-FP8", "GLM-5.2.yaml"), ("DeepSeek-V3.2", "DeepSeek-V3.2.yaml"), ("GLM-5.3-Flash", None),
        ("DeepSeek-V4-Flash-0731", "DeepSeek-V4-Flash.yaml"), ("DeepSeek-V4-Pro", "DeepSeek-V4-Pro.yaml"),
        ("DeepSeek-V4.1-Flash", "DeepSeek-V4.1-Flash.yaml"),
    ],
)  # fmt: skip
def test_the_recipe_of_a_model(name, path):
    recipe = recipe_for(find_model(name).geometry())
    assert (recipe.path.rpartition("/")[2] if recipe else None) == path


def test_what_vllm_does_not_know_is_left_out_with_a_warning():
    checked = _checked(KNOWN)
    options = {flag.option for flag in checked.flags}
    assert "--reasoning-parser" not in options
    assert any("--reasoning-parser is left out: this vLLM does not know it" in one for one in checked.warnings)
    assert options <= KNOWN.names


def test_a_value_that_vllm_does_not_list_is_left_out():
    old = parse_help(HELP.replace("glm47", "glm40"))
    checked = _checked(old)
    assert any("--tool-call-parser glm47 is left out" in one for one in checked.warnings)
    assert not {"--tool-call-parser", "--enable-auto-tool-choice"} & {flag.option for flag in checked.flags}


@pytest.mark.parametrize(
    "extra",
    [("--tensor-parallel-size", "4"), ("--tensor-parallel-size=4",), ("-tp", "4"), ("--tensor_parallel_size", "4")],
)
def test_what_the_user_gives_after_the_dashes_replaces_ours(extra):
    checked = _checked(KNOWN, extra)
    assert "--tensor-parallel-size" not in {flag.option for flag in checked.flags}
    command = server_command(["vllm"], "m", checked.flags, extra)
    assert tuple(command[-len(extra) :]) == extra


def test_where_vllm_cannot_be_asked_the_flags_stay_with_a_warning():
    checked = _checked(KnownOptions(frozenset(), {}, "it is broken"))
    assert checked.flags == _flags()
    said = "the flags are not checked here; the vLLM that serves does so at its start: it is broken"
    assert checked.warnings == (said,)


def test_the_help_is_read():
    assert {"--port", "--no-enable-auto-tool-choice", "-tp"} <= KNOWN.names
    assert "--tool-parser-plugin" not in KNOWN.names, "mentioned, not listed"
    assert KNOWN.accepts("--tool-call-parser", "glm47") is True
    assert KNOWN.accepts("--tool-call-parser", "other") is False
    assert KNOWN.accepts("--attention-backend", "anything") is None
    assert KNOWN.knows("--kv-cache-dtype.x")
    assert not KNOWN.knows("--kernel-config.x")


def test_the_parsers_options_are_as_good_as_the_help():
    told = ServeOptions(
        options=(
            ServeOption(names=("--tensor-parallel-size", "-tp")),
            ServeOption(names=("--tool-call-parser",), values=("glm45", "glm47")),
        )
    )
    observed = Observation[Selector].ok(Selector(answers=(), serve_options=Observation[ServeOptions].ok(told)))
    known = known_options(observed)
    assert known.problem is None
    assert known.names == {"--tensor-parallel-size", "-tp", "--tool-call-parser"}
    assert (known.accepts("--tool-call-parser", "glm47"), known.accepts("--tool-call-parser", "x")) == (True, False)
    assert known.accepts("-tp", "8") is None


@pytest.mark.parametrize(
    "observed",
    [
        Observation[Selector].unknown("timed out"),
        Observation[Selector].ok(Selector(answers=())),
        Observation[Selector].ok(Selector(answers=(), serve_options=Observation[ServeOptions].unknown("moved"))),
    ],
)
def test_without_the_parser_the_command_is_asked(observed):
    assert known_options(observed) is None


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("print('no options here')", "lists no option"),
        ("import time; time.sleep(60)", "no answer within"),
    ],
)
def test_a_vllm_that_gives_no_help(tmp_path, script, problem):
    executable = tmp_path / "vllm"
    executable.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    executable.chmod(0o755)
    assert problem in (ask_options([os.fspath(executable)], timeout=2).problem or "")


def test_a_vllm_that_is_not_there():
    assert "cannot be started" in (ask_options(["/nowhere/vllm"]).problem or "")


def test_extra_arguments_are_understood_as_vllm_does():
    given = read_extra(
        ["--max-model-len", "128k", "-tp=4", "--gpu_memory_utilization=0.5", "--no-enforce-eager", "--unknown", "x",
         "--speculative-config.method", "mtp", "--port", "1"]
    )  # fmt: skip
    assert given.values == {
        "max_model_len": 128000,
        "tensor": 4,
        "gpu_memory_utilization": 0.5,
        "enforce_eager": False,
        "speculative": True,
        "port": 1,
    }
    assert {"--tensor-parallel-size", "--enforce-eager", "--unknown"} <= given.options
    assert read_extra(["--max-model-len", "auto"]).values == {"max_model_len": None}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "many"], ["--port", "0"], ["--port", "65536"], ["-tp", "0"], ["--max-model-len", "0k"],
        ["--gpu-memory-utilization", "0"], ["--gpu-memory-utilization", "nan"], ["--cpu-offload-gb", "-1"], ["--host"],
    ],
)  # fmt: skip
def test_extra_arguments_of_the_wrong_kind_are_refused(arguments):
    with pytest.raises(ExtraArgumentError, match=rf"after --: .*{arguments[0]}"):
        read_extra(arguments)


def test_the_first_place_with_a_value_wins_and_is_named(tmp_path):
    """What follows `--`, then the options, then the file of vLLM's --config, then the default: as vLLM has it."""
    file = tmp_path / "serve.yaml"
    file.write_text("port: 9001\nmax-num-seqs: 7\nkv_cache_dtype: fp8\nenforce-eager: true\n")
    asked = launch_options(
        "GLM-5-FP8",
        {"port": 9002, "max_num_seqs": 8, "cpu_offload_gib": 0.0, "tensor": None},
        ("--port", "9003", "--config", os.fspath(file)),
    )
    found = {name: (getattr(asked, name).value, getattr(asked, name).source) for name in vars(asked) if name != "model"
             and hasattr(getattr(asked, name), "source")}  # fmt: skip
    assert found["port"] == (9003, "after --")
    assert found["max_num_seqs"] == (8, "command line")
    assert found["kv_cache_dtype"] == ("fp8", "configuration file")
    assert found["enforce_eager"] == (True, "configuration file")
    assert found["cpu_offload_gib"] == (0.0, "command line"), "0 is a value"
    assert found["tensor"] == (None, "default")


def test_flags_carry_the_source_of_their_choice(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("max-num-seqs: 7\nmax-model-len: 2048\ntensor-parallel-size: 8\n")
    given = {"max_model_len": 4096, "gpu_memory_utilization": 0.8, "cpu_offload_gib": 0.0, "pipeline": 1}
    checked = _checked(KNOWN, ("--config", os.fspath(file)), given)
    flags = {flag.option: flag for flag in checked.flags}
    assert "--max-num-seqs" not in flags, "vLLM reads it in its file"
    assert "--tensor-parallel-size" not in flags, "vLLM reads it in its file"
    assert (flags["--max-model-len"].value, flags["--max-model-len"].source) == ("4096", "command line")
    assert flags["--gpu-memory-utilization"].source == "command line"
    every = {flag.option: flag for flag in _flags(asked=launch_options("GLM-5-FP8", given))}
    assert every["--cpu-offload-gb"].value == "0", "asked for, so vLLM is told"
    assert every["--pipeline-parallel-size"].source == "command line"
    assert flags["--port"].source == "default"


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "no such file"), ("a: [", "not YAML"), ("- a\n", "not a YAML mapping"),
                             ("port: many\n", "--port")],
)  # fmt: skip
def test_a_file_of_vllm_that_cannot_be_used_is_named(tmp_path, content, problem):
    file = tmp_path / "serve.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ExtraArgumentError, match=problem) as raised:
        launch_options("GLM-5-FP8", {}, ("--config", os.fspath(file)))
    assert os.fspath(file) in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--nodes", "2"], "Add --emit"),
        (["--", "--port", "x"], "after --"),
        (["--target", "zx81"], "is not known"),
    ],
)
def test_wrong_usage(arguments, expected):
    command = [sys.executable, "-m", "dsa_doctor", "run-model", "GLM-5-FP8", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert expected in result.stderr


@pytest.mark.parametrize(
    ("capability", "mode"), [("8.0", "auto"), ("8.9", "auto"), ("9.0", "force"), ("12.0", "force")]
)
def test_the_server_gets_the_mode_under_which_the_plugin_acts(capability, mode):
    variables = {one.name: one.value for one in launch_variables(_verdict(capability=capability), _plan())}
    assert variables["DSA_DOCTOR_PLUGIN"] == mode


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (
            ["--speculative-config", '{"method": "mtp", "num_speculative_tokens": 2}'],
            {"drafts": 2, "speculative": True},
        ),
        (["-sc", '{"method": "mtp"}'], {"speculative": True}),
        (["--speculative-config.num_speculative_tokens=3"], {"drafts": 3, "speculative": True}),
        (["--spec-method", "mtp", "--spec-tokens", "2"], {"drafts": 2, "speculative": True}),
        (["--speculative-config", "{broken"], {"speculative": True}),
        (["--engram-config", '{"cpu_offload": false}'], {"tables": "GPU"}),
        (["--engram_config", '{"use_thp": true}'], {"tables": "huge pages"}),
        (["--engram-config", "{}"], {"tables": "pinned"}),
        (["--engram-config", "[broken"], {}),
        (["--engram-config.cpu_offload", "False"], {"tables": "GPU"}),
        (["--engram-config.use-thp=true"], {"tables": "huge pages"}),
        (["--dtype", "half", "-dcp", "2", "-pcp=4"], {"dtype": "half", "decode_context": 2, "prefill_context": 4}),
    ],
)
def test_what_the_plugin_could_refuse_is_read(given, values):
    assert read_extra(given).values == values


@pytest.mark.parametrize(
    ("model", "method", "tokens", "name"),
    [
        ("DeepSeek-V4-Flash-0731", "dspark", 5, "DSpark, 3 stages"),
        ("GLM-5-FP8", "mtp", 1, "MTP, 1 layer"),
    ],
)
def test_drafts_that_are_left_out_are_told_with_the_reason_and_the_flag(model, method, tokens, name):
    geometry, verdict = find_model(model).geometry(), _verdict()
    told = drafts_left_out(geometry, verdict, launch_options(model))
    assert told is not None
    assert f"({name})" in told
    assert "few requests" in told
    untried = Finding(id="DSA919", layer="runtime", status="warn", summary="No GPU has run it.")
    verdict = verdict.model_copy(update={"findings": (untried,)})
    assert "no GPU has run them" in drafts_left_out(geometry, verdict, launch_options(model))
    _, _, command = told.partition("\n")
    end, *given = shlex.split(command)
    assert end == "--"
    assert json.loads(given[1]) == {"method": method, "num_speculative_tokens": tokens}
    taken = launch_options(model, None, tuple(given))
    assert (taken.speculative.value, taken.drafts.value) == (True, tokens)
    assert drafts_left_out(geometry, verdict, taken) is None
