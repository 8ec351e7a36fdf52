"""DeepSeek-V4.1 under the plugin on the real Python sources of the releases that it is served from."""

from typing import Any

import pytest

from tests.dsa_doctor.plugin.contract import Answers, run_once
from tests.dsa_doctor.plugin.tiny_models import DSPARK, tiny_v41_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLASS = "dsa_doctor.plugin.families.deepseek_v41_attention:TritonDeepseekV41Attention"
SERVED = sorted({*RELEASES[RELEASES.index("0.30.0") :], "0.31.0"})
E4M3_KERNELS = ("InvRope", "IndexerQ", "CombineTopk", "FusedWoA", "SparseAttn", "DequantGather")
"""Parts of the names of kernels that convert to e4m3, or belong to what does: none may be compiled at a start."""
VAST = {"engram_num_embeddings": [1 << 34], "engram_vocab_size": 200}
REPLICAS = {"data_parallel_size": 2, "data_parallel_size_local": 2}


@pytest.fixture(scope="module", params=SERVED)
def answers(request: pytest.FixtureRequest, once: Once) -> Answers:
    """One process per release asks everything; natively on 9.0 first, while nothing is installed."""
    dspark = {"speculative_config": {"method": "dspark", "num_speculative_tokens": 5}}
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "on 9.0": ("capability", {"value": "9.0"}),
        "DeepGEMM": ("assume_deep_gemm", {}),
        "register on 9.0": ("register", {}),
        "native": ("construct_v4", {"config": tiny_v41_config(), "kv_cache_dtype": "fp8"}),
        "on 8.0": ("capability", {"value": "8.0"}),
        "register": ("register", {}),
        "8.0": ("construct_v4", {"config": tiny_v41_config(vision=True)}),
        "by name": (
            "construct_v4",
            {"config": tiny_v41_config(engram=False), "attention_backend": "TRITON_MLA_SPARSE"},
        ),
        "report": ("configure", {"config": tiny_v41_config()}),
        "fp8 cache": ("configure", {"config": tiny_v41_config(), "kv_cache_dtype": "fp8"}),
        "flashmla": ("configure", {"config": tiny_v41_config(), "attention_backend": "FLASHMLA_SPARSE"}),
        "vast": ("configure", {"config": tiny_v41_config(**VAST)}),
        "on the GPU": ("configure", {"config": tiny_v41_config(**VAST), "engram_config": {"cpu_offload": False}}),
        "peers": ("configure", {"config": tiny_v41_config(), "engram_config": {"cpu_offload": False}, **REPLICAS}),
        "across": (
            "configure",
            {"config": tiny_v41_config(), "engram_config": {"embedding_across_dp": True}, **REPLICAS},
        ),
        "on 8.6": ("capability", {"value": "8.6"}),
        "8.6": ("construct_v4", {"config": tiny_v41_config()}),
        "on 8.9": ("capability", {"value": "8.9"}),
        "8.9": ("construct_v4", {"config": tiny_v41_config()}),
        "cuda": ("cuda_untouched", {}),
    }
    if request.param == RELEASES[-1]:
        # DSpark has no other runner than V2, which earlier releases do not take where Triton finds no GPU.
        steps["runner"] = ("environment", {"VLLM_USE_V2_MODEL_RUNNER": "1"})
        steps["back on 8.0"] = ("capability", {"value": "8.0"})
        steps["dspark"] = ("construct_v4", {"config": tiny_v41_config(**DSPARK), **dspark})
    root = release_folder(request.param)
    return run_once(f"v41-{root.name}", once, root, "9.0", steps)


def test_native_is_untouched_on_9_0(answers: Answers) -> None:
    assert answers.value("register on 9.0") == ""
    native = answers.value("native")
    assert native["classes"] == ["vllm.models.deepseek_v41.nvidia.flashmla:DeepseekV4FlashMLAAttention"]
    assert native["cache_dtype"] == "fp8_ds_mla"
    assert not any("dsa_doctor" in one for one in (*native["windows"], *native["projections"]))


@pytest.mark.parametrize("case", ["8.0", "8.6", "8.9", "by name"])
def test_the_whole_model_is_constructed_with_our_attention(answers: Answers, case: str) -> None:
    built = answers.value(case)
    assert built["model"] == "vllm.models.deepseek_v41.nvidia.vl_model:DeepseekV41ForCausalLM"
    assert built["classes"] == [CLASS]
    assert built["ratios"] == [0, 0, 2, 2, 1, 1]
    assert built["backends"] == ["TRITON_MLA_SPARSE_DSV41"]
    assert built["windows"] == ["dsa_doctor.plugin.families.deepseek_v41_attention"]
    assert built["projections"] == ["dsa_doctor.plugin.families.deepseek_v4_weights"]
    assert built["heads"] == [[16, 16]]  # none is padded


def test_the_draft_is_served_as_the_model_is(answers: Answers) -> None:
    if not answers.asked("dspark"):
        pytest.skip("DSpark needs a runner that this release does not take without a GPU")
    drafting = answers.value("dspark")
    assert drafting["classes"] == [CLASS]
    assert drafting["drafts"] == ["vllm.models.deepseek_v41.nvidia.dspark:DSparkDeepseekV4ForCausalLM"]
    assert drafting["ratios"][6:] == [0] * DSPARK["n_mtp_layers"]


def test_the_caches_are_plain_rows_in_pages_that_fit_together(answers: Answers) -> None:
    built = answers.value("8.0")
    assert (built["block_size"], built["cache_dtype"]) == (128, "auto")
    # Index keys of ratio 2 and 1, window and ring, rows of ratio 2 and 1.
    assert built["pages"] == [8704, 16896, 32768, 65536, 131072]
    assert built["dtypes"] == ["torch.bfloat16", "torch.float32", "torch.uint8"]


def test_a_start_compiles_no_kernel_that_needs_e4m3(answers: Answers) -> None:
    compiled = answers.value("8.0")["compiled"]
    assert not [one for one in compiled if any(part in one for part in E4M3_KERNELS)], compiled
    assert [one for one in answers.value("native")["compiled"] if "CombineTopk" in one]
    assert "ComputeGlobalTopkIndicesAndLensKernel" in compiled


def test_the_server_logs_each_layer_and_refuses_what_is_not_served(answers: Answers) -> None:
    log = answers.value("report")["log"]
    assert "layer 2 attention: plugin." in log
    assert "layer 3 indexer: plugin." in log
    assert "no KV cache of dtype fp8" in answers.error("fp8 cache")
    assert "--attention-backend FLASHMLA_SPARSE: accepted: TRITON_MLA_SPARSE" in answers.error("flashmla")


def test_tables_that_the_host_cannot_hold_are_refused_with_the_number(answers: Answers) -> None:
    """2^34 rows of 128 values and 4 scales are 2 TiB and 64 GiB."""
    assert "the engram's tables take 2112 GiB of pinned memory on this host" in answers.error("vast")
    assert "pinned memory" not in answers.value("on the GPU")["log"]


def test_tables_of_other_gpus_are_refused(answers: Answers) -> None:
    assert "cpu_offload false with --data-parallel-size above 1" in answers.error("peers")
    assert "embedding_across_dp: rows of other replicas are not read" in answers.error("across")


def test_cuda_was_never_initialised(answers: Answers) -> None:
    assert answers.value("cuda") is True
