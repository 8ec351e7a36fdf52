"""Verdicts from facts that were gathered on real machines and kept as files."""

from pathlib import Path

import pytest

from dsa_doctor.inputs import Options, load_facts
from dsa_doctor.preflight import preflight

DATA = Path(__file__).parents[2] / "data"
STOCK_WHEEL = DATA / "facts-vllm-0.32.0.json"
H100 = DATA / "facts-h100-no-vllm.json"

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


@pytest.mark.parametrize("file", [STOCK_WHEEL, H100], ids=lambda file: file.stem)
def test_no_path_user_or_host_is_in_a_facts_file(file):
    text = file.read_text()
    for private in ("/root", "/home/", "/work", "/tmp/", "GPU-"):
        assert private not in text
