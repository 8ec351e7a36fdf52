"""The serving proof without a GPU: its cases are replaced by a script that answers at once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "gpu" / "prove.py"

FAKE_CASE = """
import json, os, sys
settings = json.load(open(sys.argv[1]))
mode = os.environ["DSA_DOCTOR_PLUGIN"]
if mode == "auto" and settings["mtp"]:
    print("RuntimeError: no such luck")
    sys.exit(1)
shift = {shift} if mode == "force" else 0.0
if settings["case"] == "misled":
    shift = {misled}
if mode == "off" and settings["graphs"]:
    shift = {noise}
json.dump({{
    "backend": ["TRITON_MLA_SPARSE" if mode != "off" else "FLASHMLA_SPARSE"],
    "seconds_to_start": 1.0,
    "compiled_while_scoring": ["vllm.x:kernel"],
    "compiled_while_serving": {late} if mode == "force" else [],
    "deep_gemm_compiled_while_serving": [],
    "prompt_logprobs": [[-1.0 + shift, {second}], [{third}]],
    "tokens": [[1, 2], [3, 4]],
}}, open(sys.argv[2], "w"))
"""


def prove(
    folder: Path,
    *options: str,
    shift: float = 0.0,
    late: str = "[]",
    logprobs: tuple[float, float] = (-2.0, -3.0),
    misled: float = 0.7,
    noise: float = 0.0,
) -> tuple[int, str, list[dict[str, object]]]:
    """Run the script with the fake case; return its status, output and JSON."""
    fake = folder / "case.py"
    fake.write_text(
        FAKE_CASE.format(shift=shift, late=late, misled=misled, noise=noise, second=logprobs[0], third=logprobs[1])
    )
    starter = (
        f"import sys; sys.path[:0] = [{str(SCRIPT.parent)!r}]; import prove; from pathlib import Path; "
        f"prove.CASE = Path({str(fake)!r}); prove.gpus = lambda: 1; sys.argv = ['prove.py', *sys.argv[1:]]; "
        "sys.exit(prove.main())"
    )
    command = [sys.executable, "-c", starter, "--out", str(folder / "out"), "--jobs", "4", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    written = folder / "out" / "proof.json"
    return done.returncode, done.stdout + done.stderr, json.loads(written.read_text()) if written.exists() else []


def test_all_agree(tmp_path: Path) -> None:
    status, output, cases = prove(tmp_path, "--mtp", "off")
    assert status == 0, output
    assert {case["case"] for case in cases} == {"native", "control", "forced", "emulated", "misled"}
    *_, table = output.partition("verdict\n")
    assert table.count("differ, as they must") == 2
    assert table.count(" agree") == len(cases) - 4, "all others but the two plainest native cases are compared"
    assert "vllm.x:kernel" in output


def test_one_case_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    status, output, cases = prove(tmp_path, "--graphs", "off", "--kv-cache-dtypes", "auto")
    assert status == 1
    assert "FAILED" in output
    assert "RuntimeError: no such luck" in output
    assert sum("failed" in case for case in cases) == 1
    assert "RuntimeError: no such luck" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("shift", "late", "said"), [(0.6, "[]", "DIFFER"), (0.0, '["dsa_kernels.a:b"]', "dsa_kernels.a:b")]
)
def test_a_distance_or_a_late_compilation_of_ours_fails_the_proof(
    tmp_path: Path, shift: float, late: str, said: str
) -> None:
    status, output, _ = prove(
        tmp_path, "--mtp", "off", "--graphs", "off", "--kv-cache-dtypes", "auto", shift=shift, late=late
    )
    assert status == 1
    assert said in output


def test_too_few_gpus_are_said_and_nothing_is_run(tmp_path: Path) -> None:
    status, output, cases = prove(tmp_path, "--tensor-parallel-size", "2")
    assert (status, cases) == (0, [])
    assert "needs as many GPUs, 1 are here" in output


def test_a_run_that_is_cut_off_leaves_what_it_found(tmp_path: Path, scripts: Callable[[str], Any]) -> None:
    proof = scripts("prove")
    native, forced = (proof.Settings(case, False, False, "auto", False, 1) for case in ("native", "forced"))
    answer = {
        "backend": ["X"],
        "seconds_to_start": 1.0,
        "compiled_while_scoring": [],
        "compiled_while_serving": [],
        "deep_gemm_compiled_while_serving": [],
        "prompt_logprobs": [[-1.0, -3.0]],
        "tokens": [[1]],
        "seconds": 2.0,
    }
    ended = {forced: dict(answer)}
    assert proof.compare_and_keep(ended, tmp_path) == {}, "its reference is still under way"
    assert [case["case"] for case in json.loads((tmp_path / "proof.json").read_text())] == ["forced"]
    ended[native] = dict(answer)
    assert set(proof.compare_and_keep(ended, tmp_path)) == {native, forced}
    kept = {case["case"]: case for case in json.loads((tmp_path / "proof.json").read_text())}
    assert kept["forced"]["compared"]["mean"] == 0


def test_the_error_of_a_worker_is_found_before_what_torch_logs_after_it(scripts: Callable[[str], Any]) -> None:
    printed = """[rank0]: Traceback (most recent call last):
[rank0]:     from flashinfer import (
[rank0]: ModuleNotFoundError: No module named 'flashinfer'
[rank0]:[W1124 01:44:38.3 ProcessGroupNCCL.cpp:1575] Warning: WARNING: destroy_process_group() was not called
"""
    assert scripts("prove").last_error(printed) == "ModuleNotFoundError: No module named 'flashinfer'"


def test_no_case_asks_for_flashinfer(tmp_path: Path, scripts: Callable[[str], Any]) -> None:
    proof = scripts("prove")
    for case in proof.CASES:
        settings = proof.Settings(case, True, True, "auto", False, 1)
        assert proof.environment_of(settings, tmp_path)["VLLM_USE_FLASHINFER_SAMPLER"] == "0"


def test_agreement_of_a_model_to_which_all_tokens_are_alike_says_nothing(tmp_path: Path) -> None:
    options = ("--mtp", "off", "--graphs", "off", "--kv-cache-dtypes", "auto")
    status, output, _ = prove(tmp_path, *options, logprobs=(-1.1, -1.2))
    assert status == 1
    assert "DIFFER" in output


def test_a_wrong_selection_that_nobody_notices_fails_the_proof(tmp_path: Path) -> None:
    status, output, _ = prove(tmp_path, "--mtp", "off", "--graphs", "off", "--kv-cache-dtypes", "auto", misled=0.0)
    assert status == 1
    assert " AGREE" in output


@pytest.mark.parametrize(("noise", "status", "said"), [(0.09, 0, " agree"), (0.03, 1, "DIFFER")])
def test_the_plugin_may_be_little_further_from_native_than_native_is_from_itself(
    tmp_path: Path, noise: float, status: int, said: str
) -> None:
    options = ("--mtp", "off", "--kv-cache-dtypes", "auto")
    done, output, _ = prove(tmp_path, *options, shift=0.1, noise=noise)
    assert done == status, output
    *_, table = output.partition("verdict\n")
    forced = next(line for line in table.splitlines() if line.startswith("forced   eager"))
    assert said in forced


@pytest.mark.parametrize(("graphs", "told"), [(("off",), True), (("off", "on"), False)])
def test_half_of_the_noise_is_called_half(tmp_path: Path, graphs: tuple[str, ...], told: bool) -> None:
    options = ("--mtp", "off", "--kv-cache-dtypes", "auto", "--graphs", *graphs)
    done, output, _ = prove(tmp_path, *options, shift=0.1, noise=0.03)
    assert done == 1, output
    *_, table = output.partition("verdict\n")
    forced = next(line for line in table.splitlines() if line.startswith("forced   eager"))
    assert ("judged by half of native's noise: run --graphs off on" in forced) == told


@pytest.mark.parametrize(
    ("case", "by_prompt", "said"),
    [
        ("forced", [0.077, 0.069, 0.074, 0.074], "agree"),
        ("forced", [0.077, 0.069, 0.077, 0.089], "DIFFER"),
        ("misled", [0.077, 0.069, 0.077, 0.089], "differ, as they must"),
        ("misled", [0.077, 0.069, 0.074, 0.074], "AGREE"),
        ("rounded", [0.027, 0.023, 0.030, 0.035], "agree"),
        ("rounded", [0.077, 0.069, 0.074, 0.074], "DIFFER"),
    ],
)
def test_newer_families_are_judged_by_their_selection_and_their_rows(
    scripts: Callable[[str], Any], case: str, by_prompt: list[float], said: str
) -> None:
    proof = scripts("prove")

    def one(name: str, distances: list[float]) -> tuple[Any, dict[str, Any]]:
        settings = proof.Settings(name, False, False, "auto", False, 1, "deepseek-v4")
        mean = sum(distances) / len(distances)
        return settings, {"compared": {"mean": mean, "mean_by_prompt": distances, "near": True}}

    results = dict([one("forced", [0.077, 0.069, 0.074, 0.074]), one(case, by_prompt)])
    assert proof.judgement(results, one(case, by_prompt)[0]) == said


def test_a_tiny_model_of_each_family_sends_every_token_to_all_experts(scripts: Callable[[str], Any]) -> None:
    tiny = scripts("tiny")
    for model in tiny.MODELS:
        for quantised in (False, True):
            config = tiny.config_of(model, quantised=quantised)
            assert config["n_routed_experts"] == config["num_experts_per_tok"] == tiny.EXPERTS
    order = torch.zeros((64, 4), dtype=torch.int32)
    tiny.fill("layers.0.ffn.gate.tid2eid", order)
    assert order.sort(-1).values.tolist() == [[0, 1, 2, 3]] * 64
