"""Runs that other people published: the planner must agree with what fitted and what did not."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model
from dsa_doctor.planner import Hardware, Parallel, PlanOptions, plan
from dsa_doctor.planner.cache import stage_caches, token_bytes
from dsa_doctor.planner.families.base import CacheOptions
from dsa_doctor.planner.parallel import part_bytes, stage_weights
from dsa_doctor.planner.storage import storage_of, stored_size
from tests.dsa_doctor.planner.quantised import (
    GLM51_NVFP4_MTP,
    GLM52_AWQ_INT4,
    GLM52_NVFP4,
    GLM52_NVFP4_LORBUS,
    GLM52_NVFP4_MAPIKA,
    GLM52_W4A16_MTP,
    GLM52_W8A16,
)

GIB = 2**30


@dataclass(frozen=True)
class Run:
    """One published run."""

    id: str
    source: str
    model: str
    gpu: str
    memory_gib: int
    parallel: Parallel
    fits: bool
    options: dict = field(default_factory=dict)
    quantization: dict | None = None
    nodes: int = 1


TP8 = Parallel(tensor=8)
RUNS = (
    Run("seed run", "vllm-project/vllm#38006", "GLM-5-FP8", "NVIDIA A800-SXM4-80GB", 80, TP8, True,
        {"max_model_len": 1024, "cpu_offload_gib": 40, "max_num_seqs": 16, "enforce_eager": True}),
    Run("seed run without offload", "vllm-project/vllm#38006", "GLM-5-FP8", "NVIDIA A800-SXM4-80GB", 80, TP8, False,
        {"max_model_len": 1024, "max_num_seqs": 16, "enforce_eager": True}),
    Run("GLM-5.2 in int4 on one A100 node", "vllm-project/vllm#38476", "GLM-5.2", "NVIDIA A100-SXM4-80GB", 80, TP8,
        True, {"max_model_len": 32768}, GLM52_AWQ_INT4),
    Run("GLM-5.3 in nvfp4 on two A100 nodes", "wtdcode/vllm-backport#38", "GLM-5.2", "NVIDIA A100-SXM4-80GB", 80,
        Parallel(tensor=8, pipeline=2, expert=True), True,
        {"max_model_len": 524288, "max_num_seqs": 8, "kv_cache_dtype": "bfloat16", "block_size": 128,
         "gpu_memory_utilization": 0.94}, GLM52_NVFP4, nodes=2),
    Run("GLM-5 FP8 on 8 H200", "recipe zai-org/GLM-5 of vllm-project/recipes", "GLM-5-FP8", "NVIDIA H200", 141, TP8,
        True, {"max_model_len": 202752}),
    Run("GLM-5 in bf16 on 8 H200", "the same recipe: needs several nodes", "GLM-5", "NVIDIA H200", 141, TP8, False),
    Run("GLM-5.2 FP8 on 8 B200, whole context", "recipe zai-org/GLM-5.2 of vllm-project/recipes", "GLM-5.2-FP8",
        "NVIDIA B200", 180, TP8, True,
        {"max_model_len": 1048576, "max_num_seqs": 32, "kv_cache_dtype": "fp8_e4m3", "mtp": True,
         "attention_backend": "FLASHMLA_SPARSE"}),
    Run("GLM-5.3 FP8 on 8 H200, whole context", "vllm-project/recipes#893: --max-model-len is required",
        "GLM-5.2-FP8", "NVIDIA H200", 141, TP8, False,
        {"max_model_len": 1048576, "kv_cache_dtype": "fp8", "attention_backend": "FLASHMLA_SPARSE"}),
    Run("GLM-5.3 FP8 on 8 H200, shorter", "vllm-project/recipes#893", "GLM-5.2-FP8", "NVIDIA H200", 141, TP8, True,
        {"max_model_len": 147456, "kv_cache_dtype": "fp8", "attention_backend": "FLASHMLA_SPARSE"}),
    Run("DeepSeek-V3.2 on 8 H200", "recipe deepseek-ai/DeepSeek-V3.2 of vllm-project/recipes", "DeepSeek-V3.2",
        "NVIDIA H200", 141, TP8, True, {"max_model_len": 163840}),
    Run("DeepSeek-V3.2 on 8 H200, TP2 DP4", "LMCache/LMCache#2521", "DeepSeek-V3.2", "NVIDIA H200", 141,
        Parallel(tensor=2, data=4, expert=True), True, {"max_model_len": 163840}),
    Run("DeepSeek-V3.2 on 8 A100", "vllm-project/vllm#38006, comments: does not fit one node", "DeepSeek-V3.2",
        "NVIDIA A100-SXM4-80GB", 80, TP8, False, {"max_model_len": 4096}),
)  # fmt: skip


def _model(run):
    known = find_model(run.model)
    if run.quantization is None:
        return known.geometry()
    config = {**known.config, "quantization_config": run.quantization}
    return geometry_from_config(config, name=run.model, source="test")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.id)
def test_the_plan_agrees_with_a_published_run(run):
    hardware = Hardware(name=run.gpu, gpus_per_node=8, nodes=run.nodes, memory_bytes=run.memory_gib * GIB)
    found = plan(_model(run), hardware, PlanOptions(parallel=run.parallel, **run.options))
    assert found.fits is run.fits, f"{run.source}: shortfall {found.shortfall_bytes / GIB:.1f} GiB"


def test_kv_bytes_are_those_that_vllm_moved():
    """vllm-project/recipes#893 counted the bytes of a prompt's KV cache over 8 ranks, fp8, blocks of 64 tokens."""
    model = find_model("GLM-5.2-FP8").geometry()
    options = CacheOptions(tensor=8, dtype="fp8", backend="FLASHMLA_SPARSE", block=64, drafts=0)
    rows, indexer = token_bytes(stage_caches(model, TP8, 0, options, mtp=False))
    for prompt, moved in ((138_615, 59_763_793_920), (44_498, 19_111_157_760)):
        tokens = moved // (8 * (rows + indexer))
        assert tokens * 8 * (rows + indexer) == moved
        assert tokens % 64 == 0
        assert 0 <= prompt - tokens < 256


@pytest.mark.parametrize(
    ("model", "gigabytes", "source"),
    [
        ("GLM-5-FP8", 756, "recipe zai-org/GLM-5: about 756 GB on disk"),
        ("GLM-5", 1507, "model card: 754 B parameters with the MTP layer, in bf16"),
        ("DeepSeek-V3.2", 685, "model card: 685 B parameters with the MTP layer, in FP8"),
    ],
)
def test_the_checkpoint_has_its_published_size(model, gigabytes, source):
    hardware = Hardware(name="NVIDIA H200", gpus_per_node=8, memory_bytes=141 * GIB)
    found = plan(find_model(model).geometry(), hardware, PlanOptions(parallel=TP8))
    assert found.disk_bytes / 1e9 == pytest.approx(gigabytes, rel=0.005), source


@pytest.mark.parametrize(
    ("model", "payload"),
    [
        ("DeepSeek-V4-Flash-0731", 166_878_536_440),
        ("DeepSeek-V4-Pro-0813", 892_727_580_904),
        ("DeepSeek-V4.1-Flash", 510_286_023_000),
    ],
)
def test_the_checkpoint_has_the_payload_of_its_index_to_the_byte(model, payload):
    """metadata.total_size of each model.safetensors.index.json on the Hub."""
    hardware = Hardware(name="NVIDIA H200", gpus_per_node=8, memory_bytes=141 * GIB)
    assert plan(find_model(model).geometry(), hardware, PlanOptions(parallel=TP8)).disk_bytes == payload


def test_glm_5_3_flash_has_its_published_size():
    """306 GiB in 62 files, which users write as 306 GB (vllm-project/vllm#53963); 321 B parameters."""
    model = find_model("GLM-5.3-Flash").geometry()
    hardware = Hardware(name="NVIDIA H200", gpus_per_node=8, memory_bytes=141 * GIB)
    found = plan(model, hardware, PlanOptions(parallel=TP8))
    assert found.disk_bytes / GIB == pytest.approx(306, rel=0.005)
    assert (found.parameters + found.mtp_parameters) / 1e9 == pytest.approx(321, rel=0.005)


def test_parts_of_deepseek_v41_are_those_of_the_published_checkpoint():
    """Bytes by subsystem that a public inventory of the checkpoint's 96,085 headers lists."""
    model = find_model("DeepSeek-V4.1-Flash").geometry()
    parts = Counter()
    for layer, weight in stage_weights(model, Parallel(), 0, mtp=True):
        draft = layer is not None and layer >= 40
        part = "norms" if weight.name == "attn.attn_sink" or ".q_norm" in weight.name else weight.part
        parts["MTP" if draft else part] += stored_size(weight, model, layer=layer).high
    assert parts["routed experts"] == 288_777_830_400
    assert parts["shared experts"] == 1_416_960_000
    assert parts["router"] == 157_409_280
    assert parts["engram"] == 203_073_076_240
    assert parts["indexer"] + parts["compressor"] == 81_835_008 - 4 * 512 * 2 - 4 * 128 * 2
    assert parts["output head"] == 1_323_827_200
    assert parts["vision tower"] + parts["embedding"] == 970_506_240 + 1_323_857_920
    assert parts["MTP"] == 591_424_512 + 7_219_445_760 + 3_935_232 + 106_272_000 + 3 * 3_932_376


def _stored(model):
    """Return the least and the most bytes of the checkpoint."""
    sizes = [stored_size(weight, model, layer=layer) for layer, weight in stage_weights(model, TP8, 0, mtp=True)]
    return sum(one.low for one in sizes), sum(one.high for one in sizes)


def _quantised(name, section):
    return geometry_from_config({**find_model(name).config, "quantization_config": section}, name=name, source="test")


@pytest.mark.parametrize(
    ("model", "section", "published", "named", "source"),
    [
        ("GLM-5.2", GLM52_AWQ_INT4, 411 * GIB, "int4", "cyankiwi/GLM-5.2-AWQ-INT4: 410 to 411 GiB, gist timinar"),
        ("GLM-5.2", GLM52_W4A16_MTP, 405 * GIB, "int4", "canada-quant/GLM-5.2-W4A16-MTP: ~405 GB, which are GiB"),
        ("GLM-5.2", GLM52_NVFP4, 464.8e9, "nvfp4", "nvidia/GLM-5.2-NVFP4: 432.9 GiB"),
        ("GLM-5.2", GLM52_NVFP4_MAPIKA, 410 * GIB, "nvfp4", "Mapika/GLM-5.2-NVFP4: 410 GB, which are GiB"),
        ("GLM-5.2", GLM52_NVFP4_LORBUS, 459 * GIB, "nvfp4", "Lorbus/GLM-5.2-NVFP4: ~459 GB, which are GiB"),
        ("GLM-5.1", GLM51_NVFP4_MTP, 441e9, "nvfp4", "CortexLM/GLM-5.1-NVFP4-MTP: ~441 GB"),
    ],
)
def test_a_quantised_checkpoint_has_its_published_size(model, section, published, named, source):
    """Where no pattern names the MTP layer it may be missing: the published size is then the lower end."""
    geometry = _quantised(model, section)
    low, high = _stored(geometry)
    assert low == pytest.approx(published, rel=0.01), source
    assert high == low or not any("78" in one for one in section["ignore"] if isinstance(one, str))
    assert storage_of(geometry).name == named
    assert storage_of(geometry).label == "exact"


def test_a_checkpoint_that_leaves_down_proj_in_bf16_is_no_four_bit_one():
    """mconcat/GLM-5.1-AWQ-4bit: the card's recipe makes gate and up projections smaller, in 68 of 78 layers."""
    known = find_model("mconcat/GLM-5.1-AWQ-4bit")
    low, high = _stored(known.geometry())
    whole, _ = _stored(find_model("GLM-5.1").geometry())
    weights = 68 * 257 * 2 * 6144 * 2048
    saved = weights * (2 - 4 / 8) - weights / 128 * (2 + 4 / 8)  # a bf16 scale and a 4-bit zero point a group
    assert high == pytest.approx(whole - saved, rel=1e-4)
    assert low < high, "nothing says whether the MTP layer is in it"
    hardware = Hardware(name="NVIDIA A100-SXM4-80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    assert plan(known.geometry(), hardware, PlanOptions(parallel=TP8)).fits is False


def test_eight_bit_weights_do_not_fit_where_four_bit_ones_do():
    hardware = Hardware(name="NVIDIA A100-SXM4-80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    wide = plan(_quantised("GLM-5.2", GLM52_W8A16), hardware, PlanOptions(parallel=TP8))
    assert wide.disk_bytes > 750e9
    assert wide.fits is False
    assert plan(_quantised("GLM-5.2", GLM52_AWQ_INT4), hardware, PlanOptions(parallel=TP8)).fits is True


def test_weights_per_rank_of_deepseek_v3():
    """HabanaAI/vllm-fork#809: DeepSeek-R1 at TP8 took 79.41 GiB per device (no indexer there)."""
    config = {**find_model("DeepSeek-V3.2").config, "index_topk": 0}
    model = geometry_from_config(config, name="R1", source="test")
    parts = part_bytes(model, TP8, 0, mtp=False)
    assert sum(parts.values()) / GIB == pytest.approx(79.41, rel=0.005)
