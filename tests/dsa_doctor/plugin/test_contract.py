"""The plugin on the real Python sources of five vLLM releases, in processes with a capability in force and no GPU."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.dsa_doctor.plugin.contract import Answers, run, run_once
from tests.dsa_doctor.plugin.tiny_models import FP8, tiny_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FORCED_KV = {
    # As in nvidia/GLM-5.1-NVFP4, whose metadata alone asks for an fp8 cache.
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "kv_cache_quant_algo": "FP8",
    "group_size": 16,
    "ignore": [],
    "exclude_modules": [],
}
NATIVE = ("FLASH_ATTN_MLA_SPARSE", "FLASHMLA_SPARSE", "FLASHINFER_MLA_SPARSE")


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> Path:
    return release_folder(request.param)


@pytest.fixture(scope="module")
def answers(release: Path, once: Once) -> Answers:
    """One process per release asks everything."""
    sharing = tiny_config(index_topk_freq=2, index_skip_topk_offset=1)
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "stock 8.0": ("select", {}),
        "on 9.0": ("capability", {"value": "9.0"}),
        "register on 9.0": ("register", {}),
        "stock 9.0": ("select", {}),
        "name on 9.0": ("select", {"backend": "TRITON_MLA_SPARSE"}),
        "on 10.0": ("capability", {"value": "10.0"}),
        "register on 10.0": ("register", {}),
        "stock 10.0": ("select", {}),
        "on 8.0": ("capability", {"value": "8.0"}),
        "register": ("register", {}),
        "8.0": ("select", {}),
        "8.0 by name": ("select", {"backend": "TRITON_MLA_SPARSE"}),
        "8.0 fp8_ds_mla": ("select", {"kv_cache_dtype": "fp8_ds_mla"}),
        "projection dtypes": ("projection_dtypes", {}),
        "8.0 fp8": ("select", {"kv_cache_dtype": "fp8"}),
        "glm": ("construct", {"config": tiny_config(), "draft": True}),
        "glm shared": ("construct", {"config": sharing}),
        "v32": ("construct", {"config": tiny_config("DeepseekV32ForCausalLM"), "draft": True}),
        "glm fp8": ("construct", {"config": tiny_config(quantization_config=FP8), "draft": True}),
        "v32 fp8_ds_mla": (
            "construct",
            {
                "config": tiny_config("DeepseekV32ForCausalLM", quantization_config=FP8),
                "kv_cache_dtype": "fp8_ds_mla",
            },
        ),
        "forced": ("configure", {"config": tiny_config(quantization_config=FORCED_KV)}),
        "forced, asked": (
            "configure",
            {"config": tiny_config(quantization_config=FORCED_KV), "kv_cache_dtype": "fp8_ds_mla"},
        ),
        "report": ("configure", {"config": tiny_config()}),
        "dcp": (
            "configure",
            {"config": tiny_config(), "decode_context_parallel_size": 2, "tensor_parallel_size": 2},
        ),
        "topk": ("configure", {"config": tiny_config(index_topk=500)}),
        "spawn": ("spawn", {"config": tiny_config()}),
        "on 8.6": ("capability", {"value": "8.6"}),
        "8.6": ("select", {}),
        "on 8.9": ("capability", {"value": "8.9"}),
        "8.9": ("select", {}),
        "back on 9.0": ("capability", {"value": "9.0"}),
        "installed on 9.0": ("select", {}),
        "cuda": ("cuda_untouched", {}),
    }
    return run_once(release.name, once, release, "8.0", steps)


def test_stock_selection_fails_on_8_0_with_vllms_own_error(answers: Answers) -> None:
    assert "No valid attention backend found for cuda with AttentionSelectorConfig(head_size=576" in answers.error(
        "stock 8.0"
    )


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9"])
def test_the_plugin_is_chosen(answers: Answers, capability: str) -> None:
    assert answers.value(capability) == "TRITON_MLA_SPARSE"


@pytest.mark.parametrize("capability", ["9.0", "10.0"])
def test_native_backends_win(answers: Answers, capability: str) -> None:
    assert answers.value(f"register on {capability}") == ""
    assert answers.value(f"stock {capability}") in NATIVE


def test_natives_win_even_where_the_plugin_is_installed(answers: Answers) -> None:
    assert answers.value("installed on 9.0") == answers.value("stock 9.0")


def test_it_leaves_no_trace_where_it_stands_down(answers: Answers) -> None:
    assert "TRITON_MLA_SPARSE" in answers.error("name on 9.0")


def test_by_name_and_by_kv_cache_dtype(answers: Answers) -> None:
    assert answers.value("8.0 by name") == "TRITON_MLA_SPARSE"
    assert answers.value("8.0 fp8_ds_mla") == "TRITON_MLA_SPARSE"
    assert "kv_cache_dtype not supported" in answers.error("8.0 fp8")


@pytest.mark.parametrize(
    ("case", "model_class", "layers", "indexers", "kv_format"),
    [
        ("glm", "GlmMoeDsaForCausalLM", 4, 4, "bf16"),
        ("glm shared", "GlmMoeDsaForCausalLM", 3, 2, "bf16"),
        ("v32", "DeepseekV3ForCausalLM", 4, 4, "bf16"),
        ("glm fp8", "GlmMoeDsaForCausalLM", 4, 4, "bf16"),
        ("v32 fp8_ds_mla", "DeepseekV3ForCausalLM", 3, 3, "fp8_ds_mla"),
    ],
)
def test_whole_models_are_constructed(
    answers: Answers, case: str, model_class: str, layers: int, indexers: int, kv_format: str
) -> None:
    built = answers.value(case)
    assert built["model"] == f"vllm.model_executor.models.deepseek_v2:{model_class}"
    assert built["backends"] == ["TRITON_MLA_SPARSE"]
    assert (built["attention_layers"], built["indexers"]) == (layers, indexers)
    assert all(built["fused_query"])
    assert built["query_module"] == "dsa_doctor.plugin.stand_ins"
    assert built["kv_formats"] == [kv_format]
    assert built["block_sizes"] == [[64]]
    assert not built["deep_gemm_imported"]
    if layers == 4:
        assert built["draft"] == ["vllm.model_executor.models.deepseek_mtp:DeepSeekMTP"]


def test_integer_weights_never_set_the_dtype_of_dense_prefill(answers: Answers) -> None:
    assert answers.value("glm fp8")["projections"] == ["ProjectionInModelDtype"]
    dtypes = answers.value("projection dtypes")
    assert set(dtypes.values()) == {"torch.bfloat16"}, dtypes


def test_kv_cache_forced_by_metadata_becomes_bfloat16(answers: Answers) -> None:
    forced = answers.value("forced")
    # DeepSeek's configuration hook turns bfloat16 into auto, which is bfloat16 for a bf16 model.
    assert forced["kv_cache_dtype"] in ("bfloat16", "auto")
    assert "bfloat16 is used instead" in forced["log"]
    asked = answers.value("forced, asked")
    assert asked["kv_cache_dtype"] == "fp8_ds_mla"
    assert "is used instead" not in asked["log"]


def test_the_server_logs_each_layer_with_the_resolvers_words(answers: Answers) -> None:
    log = answers.value("report")["log"]
    assert "layer 2 attention: plugin." in log
    assert "layer 3 indexer: plugin." in log
    assert "layer 1 csrc: unknown." in log
    assert "backend: TRITON_MLA_SPARSE, KV cache auto" in log


def test_what_is_not_supported_is_refused_at_start(answers: Answers) -> None:
    assert "--decode-context-parallel-size 2: context parallelism is not supported" in answers.error("dcp")
    assert "index_topk is 500" in answers.error("topk")
    assert "DSA_DOCTOR_PLUGIN=off" in answers.error("topk")


def test_configurations_survive_pickling_into_a_spawned_process(answers: Answers) -> None:
    assert answers.value("spawn") == "AttentionBackendEnum.CUSTOM"


def test_cuda_was_never_initialised(answers: Answers) -> None:
    assert answers.value("cuda") is True


@pytest.fixture(scope="module")
def faults(once: Once) -> Answers:
    kinds = ("dsa_kernels", "triton", "import", "custom", "in-tree")
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "on 9.0": ("capability", {"value": "9.0"}),
        "stand down": ("stand_down_seconds", {}),
        "on 8.0": ("capability", {"value": "8.0"}),
        **{kind: ("fault", {"kind": kind}) for kind in kinds},
        "unknown mode": ("register", {"mode": "sometimes"}),
        "off": ("register", {"mode": "off"}),
        "after off": ("select", {}),
        "twice": ("register", {}),
        "once": ("select", {}),
        "taken later": ("taken_later", {}),
    }
    return run_once("faults", once, release_folder("0.32.0"), "8.0", steps)


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [
        ("dsa_kernels", "WARNING", "the package dsa_kernels, which dsa-doctor's wheel brings, is missing"),
        ("triton", "WARNING", "Triton is not installed"),
        ("import", "ERROR", "failed and changed nothing (ModuleNotFoundError"),
        ("custom", "WARNING", "another plugin has registered another_plugin.Backend"),
        ("in-tree", "INFO", "this vLLM has a TRITON_MLA_SPARSE of its own"),
    ],
)
def test_faults_leave_vllm_untouched_and_are_said_once(faults: Answers, kind: str, level: str, words: str) -> None:
    found = faults.value(kind)
    assert found["log"].startswith(level)
    assert words in found["log"]
    assert found["log"].count("dsa-doctor's plugin") == 1
    assert not found["alias"]
    assert not found["priorities"]
    assert found["override"] is None


def test_standing_down_costs_next_to_nothing(faults: Answers) -> None:
    assert faults.value("stand down") < 0.05


def test_modes(faults: Answers) -> None:
    assert "DSA_DOCTOR_PLUGIN='sometimes' is not known. Accepted: auto, off, force." in faults.error("unknown mode")
    assert faults.value("off") == ""
    assert "No valid attention backend found" in faults.error("after off")
    assert faults.value("once") == "TRITON_MLA_SPARSE"


def test_another_plugin_that_takes_custom_later_is_noticed(faults: Answers) -> None:
    found = faults.value("taken later")
    assert "No valid attention backend found" in found["chosen"]
    assert "Another plugin replaced TRITON_MLA_SPARSE by another_plugin.Backend" in found["log"]


@pytest.mark.parametrize(
    ("file", "old", "new", "target"),
    [
        (
            "vllm/platforms/cuda.py",
            "_get_backend_priorities",
            "_renamed_priorities",
            "vllm.platforms.cuda:_get_backend_priorities: missing",
        ),
        (
            "vllm/v1/attention/ops/common.py",
            "pad_value: float | int",
            "padding: float | int",
            "vllm.model_executor.layers.sparse_attn_indexer:pack_seq_triton: changed",
        ),
    ],
)
def test_a_moved_target_is_refused_and_vllm_runs_on_untouched(
    tmp_path: Path, file: str, old: str, new: str, target: str
) -> None:
    changed = tmp_path / "site-packages"
    shutil.copytree(release_folder("0.32.0"), changed, copy_function=os.link)
    source = (changed / file).read_text()
    assert old in source
    (changed / file).unlink()  # a link to the cached release must not be written through
    (changed / file).write_text(source.replace(old, new))
    answers = run(
        changed,
        "8.0",
        {
            "register": ("register", {}),
            "select": ("select", {}),
            "name": ("select", {"backend": "TRITON_MLA_SPARSE"}),
            "force": ("register", {"mode": "force"}),
        },
        lasting=False,
    )
    assert target in answers.value("register")
    assert "WARNING" in answers.value("register")
    assert "No valid attention backend found" in answers.error("select")
    assert "TRITON_MLA_SPARSE" in answers.error("name")
    assert target in answers.error("force")


@pytest.mark.parametrize("version", [RELEASES[0], RELEASES[-1]])
def test_vllms_batch_invariant_mode_takes_the_backend_and_the_indexer(version: str) -> None:
    """Its selector asks the attention's backend; from 0.32 on its worker asks every layer's."""
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "register": ("register", {}),
        "select": ("select", {}),
        "model": ("invariance", {"config": tiny_config()}),
    }
    answers = run(release_folder(version), "8.0", steps, VLLM_BATCH_INVARIANT="1")
    assert answers.value("select") == "TRITON_MLA_SPARSE"
    model = answers.value("model")
    assert model["backends"] == {"TRITON_MLA_SPARSE": True, "DEEPSEEK_V32_INDEXER": True}
    assert model["all prompts alike"] is True
    assert "batch invariance: on for sparse attention and indexer\n" in model["log"]
    del steps["model"]
    kept_out = run(release_folder(version), "8.0", steps, VLLM_BATCH_INVARIANT="1", DSA_DOCTOR_BATCH_INVARIANT="0")
    assert "CUSTOM: [batch invariance not supported]" in kept_out.error("select")
