"""A capability in force without a GPU: what counts as this host's fault, and whole models constructed."""

import subprocess
import sys

import pytest

from dsa_doctor.compat import emulation
from dsa_doctor.compat.emulation import is_host_reason
from tests.model_construction import construct
from tests.releases import RELEASES, release_folder

NO_DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"
NO_TORCH_CUDA = "libc10_cuda.so: cannot open shared object file: No such file or directory"
OTHER_TOOLKIT = "libcudart.so.13: cannot open shared object file: No such file or directory"
NOT_COMPILED = "/site-packages/vllm/_C.abi3.so: undefined symbol: dsv3_fused_a_gemm"
TORCH_SYMBOL = "/site-packages/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda14ExchangeDeviceEa"
TRUNCATED = "/site-packages/vllm/_C.abi3.so: file too short"
MISSING = "No module named 'vllm._flashmla_C'"


@pytest.mark.parametrize(
    ("message", "with_cuda", "without_cuda"),
    [
        (NO_DRIVER, True, True),
        (NO_TORCH_CUDA, False, True),
        (OTHER_TOOLKIT, False, True),
        (NOT_COMPILED, False, False),
        (TORCH_SYMBOL, False, True),
        (TRUNCATED, False, False),
        (MISSING, False, False),
        ("libfoo.so.2: cannot open shared object file", False, False),
    ],
)
def test_what_counts_as_a_reason_of_this_host(message: str, with_cuda: bool, without_cuda: bool) -> None:
    assert is_host_reason(message, torch_has_cuda=True) is with_cuda
    assert is_host_reason(message, torch_has_cuda=False) is without_cuda


def test_the_emulation_needs_nothing_but_the_standard_library() -> None:
    code = f"import sys; sys.path.insert(0, {str(emulation.__file__)!r}.rpartition('/')[0]); import emulation"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_too_late_is_said() -> None:
    code = (
        "import sys, types; sys.modules['vllm'] = types.ModuleType('vllm')\n"
        "from dsa_doctor.compat import emulation\n"
        "emulation.install('8.0')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the emulation comes too late" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("version", RELEASES)
def test_a_whole_model_with_its_draft_is_constructed_on_hopper(version: str) -> None:
    made = construct(release_folder(version), "9.0", fp8=True, mtp=True)
    assert "error" not in made, made
    generic = RELEASES.index(version) < 2
    assert made["model"] == (
        "vllm.model_executor.models.deepseek_v2:GlmMoeDsaForCausalLM"
        if generic
        else "vllm.models.deepseek_v32.nvidia.model:DeepseekV32ForCausalLM"
    )
    assert made["draft"] == (
        "vllm.model_executor.models.deepseek_mtp:DeepSeekMTP"
        if generic
        else "vllm.models.deepseek_v32.nvidia.mtp:DeepseekV32MTP"
    )
    assert "FLASH_ATTN_MLA_SPARSE" in made["backends"]
    assert "FLASH_ATTN_MLA_SPARSE" in made["draft_backends"]
    assert "vllm._C_stable_libtorch" in made["assumed"]


@pytest.mark.slow
@pytest.mark.parametrize("version", [RELEASES[0], RELEASES[-1]])
def test_the_same_model_fails_on_ampere_with_vllms_own_error(version: str) -> None:
    made = construct(release_folder(version), "8.0", "DeepseekV32ForCausalLM")
    assert made["error"].startswith(
        "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig("
    )
    assert "use_sparse=True" in made["error"]
