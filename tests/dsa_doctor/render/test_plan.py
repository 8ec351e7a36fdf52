"""A launch for people: the picture of a GPU's memory, the command to paste, and the answer at the end."""

import io
import re
import shlex
import subprocess
from dataclasses import replace

import pytest
from rich.console import Console

import dsa_doctor.launch.run as run
from dsa_doctor.launch import launch_options
from dsa_doctor.launch.options import KnownOptions
from dsa_doctor.planner import Hardware, Parallel, PlanOptions, plan
from dsa_doctor.preflight import judge_with_facts
from dsa_doctor.render.memory import blocks
from dsa_doctor.render.plan import (
    command_text,
    options_of,
    plan_answer,
    print_launch,
    print_plan_answer,
)
from tests.docs.pages import FACTS

GIB = 2**30
SECRET = "hunter2-hunter2"


@pytest.fixture
def prepare(monkeypatch):
    """Prepare a launch from the facts of a stock wheel with the plugin; vLLM's own options are not asked."""
    monkeypatch.setattr(run, "judge_with_facts", lambda *given, **_: judge_with_facts(*given, facts_file=FACTS))

    def prepared(model, given=None, extra=(), target="h200", force=False):
        asked = launch_options(model, given, extra, target=target, elsewhere=True)
        judged = replace(run.judge(asked), known=KnownOptions(frozenset(), {}, "not asked"))
        return asked, run.make_ready(asked, judged, force=force)

    return prepared


def shown(asked, preparation, *, width=100, verbose=False):
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, highlight=False)
    holds = preparation.exit_code == 0
    print_launch(console, preparation.prepared, asked, holds=holds, verbose=verbose)
    print_plan_answer(console, preparation.prepared, exit_code=preparation.exit_code)
    return stream.getvalue()


def test_a_launch_that_only_estimates_speak_against_is_started_and_told_so(prepare):
    asked, preparation = prepare("GLM-5-FP8", {"gpus": 8, "max_model_len": 200_000, "gpu_memory_utilization": 0.79})
    told = " ".join(shown(asked, preparation).split())
    assert preparation.prepared.plan.estimates_decide
    assert told.startswith("GLM-5-FP8 on NVIDIA H200 (sm90): runs; whether it fits could not be told ")
    assert re.search(
        r"\(estimates decide\): for 200,000 tokens of context it is short by [\d.]+ of the [\d.]+ GiB", told
    )
    assert "Nearest sure fit: --max-model-len" in told
    assert "oes not fit" not in told
    assert f"--max-num-batched-tokens {preparation.prepared.plan.batched_tokens}" in told


def test_the_answer_comes_last_and_the_command_can_be_pasted(prepare):
    asked, preparation = prepare("GLM-5-FP8", {"gpus": 8})
    text = shown(asked, preparation)
    assert text.splitlines()[0] == "GLM-5-FP8 on NVIDIA H200 (sm90): runs"
    assert re.search(r"It fits \(estimated\): [\d,]+ tokens of context.*\bExit code 0\.\n$", text, re.DOTALL)
    command = text.split("\nCommand\n")[1].split("\n\n")[0]
    words = subprocess.run(
        ["bash", "-c", f"vllm() {{ printf '%s\\n' \"$@\"; }}; {command}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words == list(preparation.prepared.command[1:])


def test_no_command_is_shown_for_a_plan_that_does_not_hold(prepare):
    asked, preparation = prepare("GLM-5-FP8", {"gpus": 8}, target="h100")
    text = shown(asked, preparation)
    assert preparation.exit_code == 32
    assert text.splitlines()[0].endswith("runs, but does not fit")
    assert "vllm serve" not in text
    assert "--nodes 2" in text.split("What fits")[1]
    last = " ".join(text.rstrip().split("\n\n")[-1].split())
    assert last.startswith("It does not fit: ")
    assert "Nearest fit: --nodes 2" in last
    assert last.endswith("Exit code 32.")


def test_several_nodes_get_a_command_each(prepare):
    asked, preparation = prepare("GLM-5-FP8", {"gpus": 8, "nodes": 4}, ("--max-num-seqs", "16"))
    text = shown(asked, preparation)
    assert "--nnodes 4 \\\n  --node-rank 0 \\\n  --master-addr ADDRESS_OF_NODE_0" in text
    assert "On nodes 1 to 3: the same with its own --node-rank, and --headless." in text
    assert "--emit shell" in text
    assert text.index("--master-port") < text.index("--max-num-seqs 16\nOn nodes"), "what follows -- comes last"


@pytest.mark.parametrize(
    "extra", [("--api-key", SECRET), (f"--api-key={SECRET}",), ("--api_key", SECRET, SECRET), (f"--api_key={SECRET}",)]
)
def test_a_key_is_never_shown(prepare, extra):
    asked, preparation = prepare("GLM-5-FP8", {"gpus": 8}, (*extra, "--seed", "1"))
    text = shown(asked, preparation, verbose=True)
    assert SECRET not in text
    assert "set VLLM_API_KEY to it" in text
    assert "--seed 1" in text
    assert SECRET in " ".join(preparation.prepared.arguments), "vLLM gets it"
    assert SECRET not in " ".join(preparation.prepared.command)


@pytest.mark.parametrize("width", [40, 80, 100, 200])
@pytest.mark.parametrize("verbose", [False, True])
def test_everything_but_the_command_fits_the_terminal(prepare, width, verbose):
    long = '{"cudagraph_mode":"FULL_DECODE_ONLY","max_cudagraph_capture_size":64,"pass_config":{"fuse_norm":true}}'
    asked, preparation = prepare("GLM-5.2-FP8", {"gpus": 8}, ("--compilation-config", long))
    text = shown(asked, preparation, width=width, verbose=verbose)
    before, command = text.split("\nCommand\n")
    for line in before.splitlines():
        assert len(line) <= min(width, 100)
        assert line == line.rstrip()
    assert f"--compilation-config '{long}'\n" in command


def _plan(memory_gib, gpus=8, **options):
    from dsa_doctor.catalog.models import find_model

    hardware = Hardware(name="x", gpus_per_node=gpus, memory_bytes=memory_gib and memory_gib * GIB)
    return plan(find_model("GLM-5-FP8").geometry(), hardware, PlanOptions(parallel=Parallel(tensor=gpus), **options))


@pytest.mark.parametrize("memory_gib", [120, 141, 180, 288])
def test_the_blocks_add_up_to_the_memory(memory_gib):
    found = _plan(memory_gib)
    assert sum(block.size for block in blocks(found)) == memory_gib * GIB


@pytest.mark.parametrize(
    ("memory_gib", "options", "said"),
    [
        (141, {}, "It fits (estimated): "),
        (80, {}, "It does not fit: "),
        (None, {}, "--gpu-memory GIB says it"),
    ],
)
def test_the_answer_of_a_plan(memory_gib, options, said):
    assert said in plan_answer(_plan(memory_gib, **options))


def test_options_keep_their_values():
    assert options_of(["vllm", "serve", "m", "--a", "1", "2", "-b", "x y"]) == ["vllm serve m", "--a 1 2", "-b 'x y'"]
    assert command_text((), ["vllm", "serve", "m", "--a", "1"]) == "vllm serve m \\\n  --a 1"


@pytest.mark.parametrize(
    ("target", "given", "gpus"), [("dgx-spark", None, 1), ("thor", None, 1), ("gb10", 2, 2), ("a100", None, 8)]
)
def test_a_gpu_that_its_machine_has_once_is_planned_for_once(prepare, target, given, gpus):
    asked = launch_options("GLM-5-FP8", {"gpus": given}, target=target, elsewhere=True)
    assert run.judge(asked).gpus == gpus


def test_a_warning_names_the_flag_that_meets_it(prepare):
    asked, preparation = prepare("GLM-5.2-AWQ-INT4", target="rtx-pro-6000")
    text = shown(asked, preparation)
    assert "The command has --sparse-indexer-topk-backend per_row." in " ".join(text.split())
    assert "--sparse-indexer-topk-backend per_row" in text.split("\nCommand\n")[1]


def test_what_vllm_refuses_is_not_called_too_large(prepare):
    asked, preparation = prepare("GLM-5.3-Flash", {"gpus": 8, "pipeline": 2, "nodes": 2}, force=True)
    assert preparation.prepared.plan.problems
    print_launch(
        console := Console(file=io.StringIO(), width=100), preparation.prepared, asked, holds=False, verbose=False
    )
    first = console.file.getvalue().splitlines()[0]
    assert first.endswith(", but vLLM refuses these options")


def test_drafts_that_are_left_out_stand_between_the_flags_and_the_command(prepare):
    asked, preparation = prepare("GLM-5-FP8", {"gpus": 8})
    flags, _, _ = shown(asked, preparation).partition("\nCommand")
    assert "Drafts (MTP, 1 layer) are left out: they pay off with few requests at once." in flags
    wanted = """-- --speculative-config '{"method":"mtp","num_speculative_tokens":1}'"""
    assert wanted in [line.strip() for line in flags.splitlines()]
    asked, preparation = prepare("GLM-5-FP8", {"gpus": 8}, tuple(shlex.split(wanted)[1:]))
    assert "left out" not in shown(asked, preparation)
