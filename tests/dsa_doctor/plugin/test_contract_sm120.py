"""Compute capability 12.x on the real Python sources of vLLM: the plugin acts for whom asks, and for no one else."""

from pathlib import Path
from typing import Any

import pytest

from dsa_doctor.compat.releases import VERIFIED
from tests.dsa_doctor.plugin.contract import Answers, run_once
from tests.dsa_doctor.plugin.tiny_models import tiny_config, tiny_pooled_config
from tests.once import Once
from tests.releases import release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GLM, V32 = tiny_config(index_topk=2048), tiny_config("DeepseekV32ForCausalLM", index_topk=2048)
NAMED = {"attention_config": {"backend": "TRITON_MLA_SPARSE"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "glm by name": (GLM, NAMED),
    "v32 by name": (V32, NAMED),
    "glm bf16": (GLM, {"kv_cache_dtype": "bfloat16"}),
    "v32 bf16": (V32, {"kv_cache_dtype": "bfloat16"}),
    "glm fp16": (GLM, {"kv_cache_dtype": "float16", "dtype": "float16"}),
    "glm fp8 by name": (GLM, {**NAMED, "kv_cache_dtype": "fp8_ds_mla"}),
}
"""Each is the server of a process of its own: one that was asked acts from then on."""


@pytest.fixture(scope="module", params=[VERIFIED[0], VERIFIED[-1]])
def release(request: pytest.FixtureRequest) -> Path:
    return release_folder(request.param)


@pytest.fixture(scope="module", params=["12.0", "12.1"])
def answers(request: pytest.FixtureRequest, release: Path, once: Once) -> Answers:
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "register": ("register", {}),
        "deep_gemm": ("assume_deep_gemm", {}),
        "nobody asks": ("asked", {"config": GLM}),
        **{name: ("asked", {"config": config, **options}) for name, (config, options) in CASES.items()},
        "fp8 by name": ("asked", {"config": GLM, **NAMED, "kv_cache_dtype": "fp8"}),
        "cuda": ("cuda_untouched", {}),
    }
    return run_once(f"sm120-{request.param}-{release.name}", once, release, str(request.param), steps)


def test_it_is_silent_until_it_is_asked(answers: Answers) -> None:
    assert answers.value("register") == ""
    found = answers.value("nobody asks")
    assert found["mode"] == "auto"
    assert found["backends"] == ["FLASHINFER_MLA_SPARSE_SM120"]
    assert not found["patched"]


@pytest.mark.parametrize("case", CASES)
def test_it_serves_whom_asks_and_tells_the_child_processes(answers: Answers, case: str) -> None:
    found = answers.value(case)
    assert found["mode"] == "force", "what processes that the server starts inherit"
    assert found["backends"] == ["TRITON_MLA_SPARSE"]
    assert found["patched"]
    assert found["kv_formats"] == ["fp8_ds_mla" if "fp8" in case else "bf16"]
    assert "acts on compute capability 12." in found["log"]
    assert "layer 2 attention: plugin." in found["log"]


def test_what_it_cannot_serve_is_refused(answers: Answers) -> None:
    assert "no KV cache of dtype fp8 for " in answers.error("fp8 by name")


def test_cuda_was_never_initialised(answers: Answers) -> None:
    assert answers.value("cuda") is True


def test_glm_5_3_flash_by_name(once: Once) -> None:
    triton = {"additional_config": {"kda_prefill_backend": "triton"}}  # the other is compiled
    options = {"config": tiny_pooled_config(), "max_num_batched_tokens": 8192, **NAMED, **triton}
    steps = {"register": ("register", {}), "flash": ("asked", options)}
    answers = run_once("sm120-flash", once, release_folder(VERIFIED[-1]), "12.0", steps)
    found = answers.value("flash")
    assert found["mode"] == "force"
    assert found["backends"] == ["TRITON_MLA_SPARSE"]
