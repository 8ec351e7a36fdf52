"""DeepSeek-V4 under the plugin on the real Python sources of the releases that it is served from."""

from typing import Any

import pytest

from tests.dsa_doctor.plugin.contract import Answers, run_once
from tests.dsa_doctor.plugin.tiny_models import DSPARK, tiny_v4_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLASS = "dsa_doctor.plugin.families.deepseek_v4_attention:TritonDeepseekV4Attention"
E4M3_KERNELS = ("InvRope", "IndexerQ", "SparseAttnCompress", "SparseAttnNorm", "FusedKVCompress", "FusedKvCompress")
"""Parts of the names of kernels that convert to e4m3, or belong to what does: none may be compiled at a start."""


@pytest.fixture(scope="module", params=RELEASES[1:])
def answers(request: pytest.FixtureRequest, once: Once) -> Answers:
    """One process per release asks everything; natively on 9.0 first, while nothing is installed."""
    mtp = {"speculative_config": {"method": "mtp", "num_speculative_tokens": 1}}
    dspark = {"speculative_config": {"method": "dspark", "num_speculative_tokens": 5}}
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "on 9.0": ("capability", {"value": "9.0"}),
        "DeepGEMM": ("assume_deep_gemm", {}),
        "register on 9.0": ("register", {}),
        "native": ("construct_v4", {"config": tiny_v4_config(), "kv_cache_dtype": "fp8"}),
        "on 8.0": ("capability", {"value": "8.0"}),
        "register": ("register", {}),
        "8.0": ("construct_v4", {"config": tiny_v4_config(), **mtp}),
        "by name": ("construct_v4", {"config": tiny_v4_config(), "attention_backend": "TRITON_MLA_SPARSE"}),
        "fp8 experts": ("construct_v4", {"config": tiny_v4_config(expert_dtype="fp8")}),
        "report": ("configure", {"config": tiny_v4_config()}),
        "fp8 cache": ("configure", {"config": tiny_v4_config(), "kv_cache_dtype": "fp8"}),
        "flashmla": ("configure", {"config": tiny_v4_config(), "attention_backend": "FLASHMLA_SPARSE"}),
        "on 8.6": ("capability", {"value": "8.6"}),
        "8.6": ("construct_v4", {"config": tiny_v4_config()}),
        "on 8.9": ("capability", {"value": "8.9"}),
        "8.9": ("construct_v4", {"config": tiny_v4_config()}),
        "cuda": ("cuda_untouched", {}),
    }
    if request.param == RELEASES[-1]:
        # DSpark has no other runner than V2, which earlier releases do not take where Triton finds no GPU.
        steps["runner"] = ("environment", {"VLLM_USE_V2_MODEL_RUNNER": "1"})
        steps["back on 8.0"] = ("capability", {"value": "8.0"})
        steps["dspark"] = ("construct_v4", {"config": tiny_v4_config(**DSPARK), **dspark})
    root = release_folder(request.param)
    return run_once(f"v4-{root.name}", once, root, "9.0", steps)


def test_native_is_untouched_on_9_0(answers: Answers) -> None:
    assert answers.value("register on 9.0") == ""
    native = answers.value("native")
    assert native["classes"] == ["vllm.models.deepseek_v4.nvidia.flashmla:DeepseekV4FlashMLAAttention"]
    assert native["cache_dtype"] == "fp8_ds_mla"
    assert not any("dsa_doctor" in one for one in (*native["windows"], *native["projections"]))


@pytest.mark.parametrize("case", ["8.0", "8.6", "8.9", "by name", "fp8 experts"])
def test_the_whole_model_is_constructed_with_our_attention(answers: Answers, case: str) -> None:
    built = answers.value(case)
    assert built["model"] == "vllm.models.deepseek_v4.nvidia.model:DeepseekV4ForCausalLM"
    assert built["classes"] == [CLASS]
    assert built["ratios"][:4] == [1, 1, 4, 128]
    assert built["backends"] == ["TRITON_MLA_SPARSE_DSV4"]
    assert built["windows"] == ["dsa_doctor.plugin.families.deepseek_v4_attention"]
    assert built["projections"] == ["dsa_doctor.plugin.families.deepseek_v4_weights"]
    assert built["heads"] == [[16, 16]]  # none is padded


def test_drafts_are_served_as_the_model_is(answers: Answers) -> None:
    assert answers.value("8.0")["drafts"] == ["vllm.models.deepseek_v4.nvidia.mtp:DeepSeekV4MTP"]
    assert answers.value("8.0")["ratios"][4:] == [1]
    if not answers.asked("dspark"):
        return
    drafting = answers.value("dspark")
    assert drafting["classes"] == [CLASS]
    assert drafting["drafts"] == ["vllm.models.deepseek_v4.nvidia.dspark:DSparkDeepseekV4ForCausalLM"]
    assert drafting["ratios"][4:] == [1] * DSPARK["n_mtp_layers"]


def test_the_caches_are_plain_rows_in_pages_that_fit_together(answers: Answers) -> None:
    built = answers.value("8.0")
    assert (built["block_size"], built["cache_dtype"]) == (256, "auto")
    # Rows of ratio 128 and 4, window; states; index keys: as vLLM groups them for FlashInfer's plain rows.
    assert built["pages"] == [2048, 8192, 8704, 32768, 65536]
    assert built["dtypes"] == ["torch.bfloat16", "torch.float32", "torch.uint8"]


def test_a_start_compiles_no_kernel_that_needs_e4m3(answers: Answers) -> None:
    compiled = answers.value("8.0")["compiled"]
    assert not [one for one in compiled if any(part in one for part in E4M3_KERNELS)], compiled
    native = answers.value("native")["compiled"]
    if native:  # from 0.30 on
        assert [one for one in native if any(part in one for part in E4M3_KERNELS)]
        assert "ComputeGlobalTopkIndicesAndLensKernel" in compiled


def test_the_server_logs_each_layer_and_refuses_what_is_not_served(answers: Answers) -> None:
    log = answers.value("report")["log"]
    assert "layer 2 attention: plugin." in log
    assert "layer 3 indexer: plugin." in log
    assert "with its compressor and its mHC product" in log
    assert "no KV cache of dtype fp8" in answers.error("fp8 cache")
    assert "--attention-backend FLASHMLA_SPARSE: accepted: TRITON_MLA_SPARSE" in answers.error("flashmla")


def test_cuda_was_never_initialised(answers: Answers) -> None:
    assert answers.value("cuda") is True
