"""Verdicts from facts that were gathered on real machines and kept as files."""

from pathlib import Path

import pytest

from dsa_doctor.inputs import Options, load_facts
from dsa_doctor.preflight import preflight

DATA = Path(__file__).parents[2] / "data"
STOCK_WHEEL = DATA / "facts-vllm-0.32.0.json"
NEWEST_WHEEL = DATA / "facts-vllm-0.33.0.json"
H100 = DATA / "facts-h100-no-vllm.json"
H100_SERVING = DATA / "facts-h100-vllm-0.26.0.json"

NATIVE = ["native", "native", "native"]
LOST = ["upstream", "unresolved", "unresolved"]


# Reviewed by hand against the releases' platforms/cuda.py and DeepGEMM's supported architectures.
@pytest.mark.parametrize(
    ("target", "model", "states"),
    [
        ("a100", "GLM-5-FP8", LOST),
        ("a100", "DeepSeek-V3.2", LOST),
        ("a100", "GLM-5.3-Flash", LOST),
        ("a6000", "GLM-5-FP8", LOST),
        ("4090", "GLM-5-FP8", LOST),
        ("h100", "GLM-5-FP8", NATIVE),
        ("h100", "DeepSeek-V3.2", NATIVE),
        ("h100", "GLM-5.3-Flash", NATIVE),
        ("b200", "GLM-5-FP8", NATIVE),
        ("5090", "GLM-5-FP8", NATIVE),
    ],
)
def test_a_stock_wheel(target, model, states):
    verdict = preflight(model, Options(target=target, plugin_mode="off"), facts_file=STOCK_WHEEL)
    assert [layer.state for layer in verdict.layers] == states
    assert verdict.exit_code == (0 if states == NATIVE else 24)


def test_a_real_h100_is_read_and_without_vllm_nothing_is_judged():
    facts = load_facts(H100)
    (gpu,) = facts.gpus.value.gpus
    assert (gpu.name, gpu.capability, gpu.mig_enabled) == ("NVIDIA H100 80GB HBM3", "9.0", False)
    assert facts.software.value.torch_cuda.value == "13.0"
    verdict = preflight("GLM-5-FP8", Options(), facts_file=H100)
    assert verdict.target.name == "NVIDIA H100 80GB HBM3"
    assert verdict.target.source == "facts file"
    assert verdict.exit_code == 32
    assert [finding.id for finding in verdict.findings] == ["DSA908"]


@pytest.mark.parametrize("ranks", [1, 8])
def test_a_real_h100_with_vllm_is_native_and_the_plugin_stands_back(ranks):
    verdict = preflight("GLM-5-FP8", Options(tensor_parallel_size=ranks), facts_file=H100_SERVING)
    assert verdict.target.name == "NVIDIA H100 80GB HBM3"
    assert [layer.state for layer in verdict.layers] == NATIVE
    assert verdict.exit_code == 0
    assert verdict.configuration.attention_backend == "FLASHMLA_SPARSE"
    assert not verdict.configuration.uses_plugin
    assert verdict.configuration.block_size is None, "vLLM sizes blocks for all caches together on its own path"
    # What `dsa-doctor verify` saw the op do on that machine: candidates dropped on rows of a narrow range.
    assert {"DSA902": "warn"}.items() <= {finding.id: finding.status for finding in verdict.findings}.items()


def test_the_files_of_that_machine_have_no_code_for_an_a100():
    verdict = preflight("GLM-5-FP8", Options(target="a100", tensor_parallel_size=8), facts_file=H100_SERVING)
    assert [layer.state for layer in verdict.layers] == ["unresolved", "plugin", "plugin"]
    assert verdict.exit_code == 4
    assert "_C::rms_norm" in verdict.layers[0].reason


@pytest.mark.parametrize("file", [STOCK_WHEEL, NEWEST_WHEEL, H100, H100_SERVING], ids=lambda file: file.stem)
def test_no_path_user_or_host_is_in_a_facts_file(file):
    text = file.read_text()
    for private in ("/root", "/home/", "/work", "/tmp/", "GPU-"):
        assert private not in text
