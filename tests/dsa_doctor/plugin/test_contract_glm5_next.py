"""GLM-5.3-Flash on the real Python sources of the releases that have it, a capability in force and no GPU."""

from pathlib import Path
from typing import Any

import pytest

from dsa_doctor.compat.families.glm5_next import open_pools_keep_drafts, seeds_by_distance
from dsa_doctor.compat.releases import before, since
from dsa_doctor.compat.sources import SourceTree
from tests.dsa_doctor.plugin.contract import Answers, run_once
from tests.dsa_doctor.plugin.tiny_models import FP8, tiny_pooled_config
from tests.once import Once
from tests.releases import release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVED = ("8.0", "8.6", "8.9")
REPLACED = [
    "_kpool_compress_insert",
    "_pad_indexer_heads",
    "fp8_fp4_mqa_logits",
    "fp8_fp4_paged_mqa_logits",
    "fwht128_quant_fp8",
    "has_deep_gemm",
    "kpool_decode_update_and_maybe_write_cache_batched",
    "kpool_seed_tail_cache",
    "pack_seq_triton",
    "unpack_seq_triton",
]
SIZES = {"max_num_batched_tokens": 8192, "max_model_len": 65536}
DRAFTS = {"method": "mtp", "num_speculative_tokens": 2}
TRITON_KDA = {"additional_config": {"kda_prefill_backend": "triton"}}
Steps = dict[str, tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module", params=since("0.30.0"))
def release(request: pytest.FixtureRequest) -> Path:
    return release_folder(request.param)


@pytest.fixture(scope="module")
def answers(release: Path, once: Once) -> Answers:
    """One process per release asks everything that needs the plugin."""
    config = tiny_pooled_config()
    steps: Steps = {"on 8.0": ("capability", {"value": "8.0"}), "register": ("register", {})}
    for capability in SERVED:
        steps[f"on {capability}"] = ("capability", {"value": capability})
        steps[capability] = ("construct_pooled", {"config": config, "draft": True, **SIZES})
    steps |= {
        "back on 8.0": ("capability", {"value": "8.0"}),
        "fp8": ("construct_pooled", {"config": {**config, "quantization_config": FP8}, "draft": True, **SIZES}),
        "text": (
            "construct_pooled",
            {"config": {**config["text_config"], "architectures": ["Glm5NextForCausalLM"]}, **SIZES},
        ),
        "report": ("configure", {"config": config}),
        "pipeline": ("configure", {"config": config, "pipeline_parallel_size": 2}),
        "context": ("configure", {"config": config, "decode_context_parallel_size": 2, "tensor_parallel_size": 2}),
        "fp8 cache": ("configure", {"config": config, "kv_cache_dtype": "fp8"}),
        "fp8_ds_mla": ("configure", {"config": config, "kv_cache_dtype": "fp8_ds_mla"}),
        "float16": ("configure", {"config": config, "dtype": "float16"}),
        "unaligned": ("configure", {"config": config, "enable_prefix_caching": False}),
        "whole graphs": ("configure", {"config": config, "environment": {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0"}}),
        "no graphs": (
            "configure",
            {"config": config, "environment": {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0"}, "enforce_eager": True},
        ),
        "drafts": ("configure", {"config": config, "speculative_config": DRAFTS}),
        "cuda": ("cuda_untouched", {}),
    }
    return run_once(f"glm5_next-{release.name}", once, release, "8.0", steps)


@pytest.mark.parametrize("case", [*SERVED, "fp8", "text"])
def test_the_whole_model_is_constructed(answers: Answers, release: Path, case: str) -> None:
    built = answers.value(case)
    names = [part.rpartition(":")[2] for part in built["parts"]]
    assert all(part.startswith("vllm.models.glm5next.") for part in built["parts"])
    if case == "text":
        assert names == ["Glm5NextForCausalLM"]
    else:
        assert names == ["Glm5NextForConditionalGeneration", "Glm5NextMTP"]
    assert built["backends"] == ["TRITON_MLA_SPARSE"]
    assert built["attention_layers"] == built["indexers"] == len(names)
    assert built["head_sizes"] == [512]
    assert built["widths"] == [2176], "2,048 tokens, the open pool's 3, in tiles of 128"
    # Where vLLM itself knows how far apart the blocks of open pools lie, its own kernel fills them.
    assert built["ours"] == [
        name for name in REPLACED if name != "kpool_seed_tail_cache" or not seeds_by_distance(SourceTree(release))
    ]


@pytest.mark.parametrize("case", SERVED)
def test_the_cache_is_laid_out_in_blocks_that_the_kernels_take(answers: Answers, case: str) -> None:
    groups = answers.value(case)["kv"]["groups"]
    (sparse,) = [one for one in groups if "TRITON_MLA_SPARSE" in one["backends"]]
    assert sparse["block"] == 640
    assert sparse["kernel_block"] % 64 == 0
    assert sparse["views"]["TRITON_MLA_SPARSE"][1:] == [sparse["kernel_block"], 512]
    indexer = sparse["views"]["DEEPSEEK_V32_INDEXER"]
    assert indexer[1] in (16, 32, 64), "keys of a page, each for a pool"
    assert indexer[2] == 132
    (tail,) = [one for one in groups if one["backends"] == ["KPOOL_TAIL"]]
    assert tail["views"]["KPOOL_TAIL"][1:3] == [2, tail["block"]]
    assert tail["strides"]["KPOOL_TAIL"][0] > 2 * tail["block"] * 128, "blocks of open pools lie apart"


def test_the_server_says_that_every_layer_is_served(answers: Answers) -> None:
    log = answers.value("report")["log"]
    assert "layer 2 attention: plugin." in log
    assert "layer 3 indexer: plugin." in log


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("pipeline", "--pipeline-parallel-size 2: vLLM's class hands no hyper-connections"),
        ("context", "--decode-context-parallel-size 2"),
        ("fp8 cache", "no KV cache of dtype fp8 for "),
        ("fp8_ds_mla", "no KV cache of dtype fp8_ds_mla for "),
        ("float16", "--dtype float16: vLLM's pooled indexer computes in bfloat16 alone"),
        ("whole graphs", "VLLM_USE_BREAKABLE_CUDAGRAPH=0"),
    ],
)
def test_what_is_not_served_is_refused_at_start(answers: Answers, case: str, words: str) -> None:
    assert words in answers.error(case)
    assert "DSA_DOCTOR_PLUGIN=off" in answers.error(case)


def test_drafts_are_served_where_their_rejection_leaves_the_pool_whole(answers: Answers, release: Path) -> None:
    if open_pools_keep_drafts(SourceTree(release)):
        assert "layer 3 indexer: plugin." in answers.value("drafts")["log"]
    else:
        assert "num_speculative_tokens 2: this vLLM keeps a request's last pool of tokens alone" in answers.error(
            "drafts"
        )


def test_chunks_of_a_prompt_may_end_anywhere(answers: Answers) -> None:
    assert "layer 3 indexer: plugin." in answers.value("unaligned")["log"]


def test_without_graphs_their_kind_does_not_matter(answers: Answers) -> None:
    assert "layer 3 indexer: plugin." in answers.value("no graphs")["log"]


def test_cuda_was_never_initialised(answers: Answers) -> None:
    assert answers.value("cuda") is True


def test_on_9_0_nothing_of_the_plugin_is_taken(release: Path, once: Once) -> None:
    steps: Steps = {
        "register": ("register", {}),
        "native": (
            "construct_pooled",
            {"config": tiny_pooled_config(), "draft": True, "assume_deep_gemm": True, **SIZES, **TRITON_KDA},
        ),
    }
    answers = run_once(f"glm5_next-native-{release.name}", once, release, "9.0", steps)
    built = answers.value("native")
    assert built["ours"] == []
    assert "TRITON_MLA_SPARSE" not in built["backends"]


@pytest.mark.parametrize("version", before("0.30.0"))
def test_a_vllm_without_the_family_serves_the_others(version: str, once: Once) -> None:
    steps: Steps = {"register": ("register", {}), "select": ("select", {})}
    answers = run_once(f"glm5_next-{version}", once, release_folder(version), "8.0", steps)
    assert answers.value("register") == ""
    assert answers.value("select") == "TRITON_MLA_SPARSE"
