"""Configurations that people reported, with what is right for each: see tests/data/field."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dsa_doctor.catalog.geometry import geometry_from_file
from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.targets import find_gpu
from dsa_doctor.planner import Hardware, Parallel, PlanOptions, plan
from dsa_doctor.planner.plan import MINIMUM_CONTEXT

GIB = 2**30
FIELD = Path(__file__).parents[2] / "data" / "field"
SM120 = "FLASHINFER_MLA_SPARSE_SM120"


def _hardware(alias, gpus):
    card = find_gpu(alias)
    return Hardware(name=card.name, gpus_per_node=gpus, memory_bytes=card.memory_bytes)


@pytest.mark.parametrize("model", ["catalog", "24-glm53-flash-fp8"])
def test_glm_5_3_flash_serves_a_million_tokens_on_eight_rtx_pro_6000(model):
    geometry = find_model("GLM-5.3-Flash").geometry() if model == "catalog" else geometry_from_file(FIELD / model)
    options = PlanOptions(
        parallel=Parallel(tensor=8), attention_backend=SM120, gpu_memory_utilization=0.85, max_model_len=1048576
    )
    found = plan(geometry, _hardware("rtx-pro-6000", 8), options)
    assert found.fits
    assert found.disk_bytes / GIB == pytest.approx(306, rel=0.01)
    assert found.kv_token_bytes < 8_000
    assert found.kv_label == ("exact" if model == "catalog" else "estimated")
    assert found.assumed == (() if model == "catalog" else ("index_kpool", "layer_types"))


def test_four_such_cards_serve_a_million_tokens_with_a_larger_share():
    """vllm-project/vllm#53963."""
    options = PlanOptions(
        parallel=Parallel(tensor=4), attention_backend=SM120, gpu_memory_utilization=0.95, max_model_len=1048576
    )
    assert plan(find_model("GLM-5.3-Flash").geometry(), _hardware("rtx-pro-6000", 4), options).fits


def test_a_quarter_of_a_million_tokens_on_four_rtx_4090_of_48_gib_is_not_called_a_misfit():
    """A user runs it so: what speaks against it is the estimated reserve, graphs and activations alone."""
    card = find_gpu("4090")
    hardware = Hardware(name=card.name, gpus_per_node=4, memory_bytes=48 * GIB)
    options = PlanOptions(
        parallel=Parallel(tensor=4), gpu_memory_utilization=0.98, max_model_len=262144, max_num_seqs=1
    )
    geometry = geometry_from_file(FIELD / "32-glm53-flash-awq")
    found = plan(geometry, hardware, options)
    assert (found.fits, found.estimates_decide) == (None, True)
    assert found.largest_context >= MINIMUM_CONTEXT
    small = hardware.model_copy(update={"memory_bytes": 40 * GIB})
    assert plan(geometry, small, options).fits is False


def test_eight_bit_weights_of_753_billion_parameters_do_not_fit_on_eight_a100():
    found = plan(
        geometry_from_file(FIELD / "28-glm53-w8a16"), _hardware("a100", 8), PlanOptions(parallel=Parallel(tensor=8))
    )
    assert found.fits is False
    assert 755e9 < found.disk_bytes < 775e9


def test_a_configuration_without_its_lists_is_planned_but_not_called_exact():
    geometry = geometry_from_file(FIELD / "30-deepseek-v41-flash")
    assert geometry.family == "deepseek_v41"
    assert {"compress_ratios", "kv_source_layer_ids", "index_source_layer_ids"} <= set(geometry.assumed)
    found = plan(geometry, _hardware("a100", 8), PlanOptions(parallel=Parallel(tensor=8)))
    assert found.kv_label == "estimated"
    assert all(line.label == "estimated" for line in found.lines if line.name.startswith("weights"))


def test_int4_experts_on_four_4090_of_48_gb_need_nearly_all_of_the_memory():
    """wtdcode/vllm-backport#87 serves 256k tokens so; at vLLM's share of 0.92 the weights alone leave too little."""
    geometry = geometry_from_file(FIELD / "32-glm53-flash-awq")
    options = PlanOptions(parallel=Parallel(tensor=4), max_model_len=262144)
    found = plan(geometry, _hardware("4090-48gb", 4), options)
    weights = sum(line.bytes for line in found.lines if line.name.startswith(("weights", "absorbed"))) / GIB
    assert 41 < weights < 42
    assert found.fits is False
    assert found.shortfall_bytes < 7 * GIB
    assert plan(geometry, _hardware("4090", 4), options).shortfall_bytes > 25 * GIB
    assert plan(geometry, _hardware("a100", 4), options).fits


COMMANDS = (
    ("24-glm53-flash-fp8", ["run-model", "--dry-run", "--target", "rtx-pro-6000", "--gpus", "8",
                            "--max-model-len", "1048576", "--gpu-memory-utilization", "0.85"], {0}),
    ("28-glm53-w8a16", ["run-model", "--dry-run", "--target", "a100", "--gpus", "8"], {32}),
    ("30-deepseek-v41-flash", ["check", "--target", "a100", "-tp", "8"], {0}),
    ("32-glm53-flash-awq", ["run-model", "--dry-run", "--target", "4090", "--gpus", "4",
                            "--max-model-len", "262144"], {8, 16, 24, 32}),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("told_before")
@pytest.mark.parametrize(
    ("folder", "command", "codes"), COMMANDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_users_own_command_ends_with_the_right_answer(folder, command, codes):
    done = subprocess.run(
        [sys.executable, "-m", "dsa_doctor", command[0], str(FIELD / folder), *command[1:], "--format", "json"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode in codes, done.stderr[-1000:]
    if command[0] == "run-model" and done.returncode in (0, 32):
        assert json.loads(done.stdout)["plan"]["fits"] is (done.returncode == 0)
