"""Properties of the plan, and the shapes it proposes where a model does not fit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import KNOWN_MODELS, find_model
from dsa_doctor.catalog.targets import KNOWN_GPUS, find_gpu
from dsa_doctor.planner import Hardware, Parallel, PlanOptions, nearest_shapes, plan

GIB = 2**30
MODELS = [known.geometry() for known in KNOWN_MODELS]


@st.composite
def launches(draw):
    model = draw(st.sampled_from(MODELS))
    tensor = draw(st.sampled_from([1, 2, 4, 8]))
    parallel = Parallel(
        tensor=tensor,
        pipeline=draw(st.sampled_from([1, 2, 3, 4])),
        data=draw(st.sampled_from([1, 1, 2])),
        expert=draw(st.booleans()),
    )
    options = PlanOptions(
        parallel=parallel,
        kv_cache_dtype=draw(st.sampled_from(["auto", "bfloat16", "fp8", "fp8_ds_mla"])),
        attention_backend=draw(st.sampled_from(["auto", "TRITON_MLA_SPARSE", "FLASHINFER_MLA_SPARSE"])),
        gpu_memory_utilization=draw(st.floats(0.3, 1.0)),
        max_model_len=draw(st.none() | st.integers(1, 1_100_000)),
        max_num_seqs=draw(st.none() | st.integers(1, 2048)),
        max_num_batched_tokens=draw(st.none() | st.integers(128, 32768)),
        cpu_offload_gib=draw(st.sampled_from([0.0, 0.0, 20.0, 40.0, 400.0])),
        enforce_eager=draw(st.booleans()),
        mtp=draw(st.booleans()),
    )
    hardware = Hardware(
        name=draw(st.sampled_from([gpu.name for gpu in KNOWN_GPUS])),
        gpus_per_node=tensor,
        nodes=parallel.pipeline * parallel.data,
        memory_bytes=draw(st.integers(0, 400 * GIB)),
    )
    return model, hardware, options


@settings(max_examples=60, deadline=None)
@given(launches(), st.integers(1, 200 * GIB))
def test_more_memory_never_turns_a_fit_into_a_misfit(launch, more):
    model, hardware, options = launch
    small = plan(model, hardware, options)
    large = plan(model, hardware.model_copy(update={"memory_bytes": hardware.memory_bytes + more}), options)
    assert not small.fits or large.fits
    assert large.largest_context >= small.largest_context
    if not large.fits:
        assert not small.fits


@settings(max_examples=60, deadline=None)
@given(launches())
def test_bytes_add_up(launch):
    model, hardware, options = launch
    found = plan(model, hardware, options)
    spent = sum(line.bytes for line in found.lines)
    assert spent + found.kv_cache_bytes == found.budget_bytes
    offloaded = -sum(min(0, line.bytes) for line in found.lines) * hardware.gpus_per_node
    assert found.host_bytes == offloaded + sum(line.bytes for line in found.host_lines)
    assert found.indexer_token_bytes <= found.kv_token_bytes
    needed = found.kv_request_bytes
    assert needed >= found.max_model_len * (found.kv_token_bytes - 2)
    if found.fits:
        assert found.shortfall_bytes == 0
        assert found.kv_cache_bytes >= needed
        assert found.kv_tokens >= found.max_model_len
        assert found.largest_batch >= 1
        assert options.max_model_len is None or found.max_model_len == options.max_model_len
    elif not found.problems:
        assert found.shortfall_bytes == needed - found.kv_cache_bytes > 0


@settings(max_examples=40, deadline=None)
@given(launches())
def test_offload_and_fp8_never_make_it_worse(launch):
    model, hardware, options = launch
    before = plan(model, hardware, options)
    more = options.model_copy(update={"cpu_offload_gib": options.cpu_offload_gib + 8})
    assert plan(model, hardware, more).largest_context >= before.largest_context
    fp8 = options.model_copy(update={"kv_cache_dtype": "fp8_ds_mla"})
    assert (
        plan(model, hardware, fp8).kv_token_bytes
        <= plan(model, hardware, options.model_copy(update={"kv_cache_dtype": "bfloat16"})).kv_token_bytes
    )


@settings(max_examples=60, deadline=None)
@given(launches(), st.integers(1, 1_100_000))
def test_what_fits_fits_at_every_shorter_context(launch, shorter):
    model, hardware, options = launch
    long = plan(model, hardware, options)
    if not long.fits:
        return
    asked = options.model_copy(update={"max_model_len": min(shorter, long.max_model_len)})
    found = plan(model, hardware, asked)
    assert found.fits
    assert found.largest_context >= long.largest_context


@settings(max_examples=60, deadline=None)
@given(launches(), st.integers(1, 64))
def test_fewer_sequences_and_smaller_batches_never_make_it_worse(launch, fewer):
    model, hardware, options = launch
    batch = {"max_num_seqs": options.max_num_seqs or 256, "max_num_batched_tokens": 4096}
    before = plan(model, hardware, options.model_copy(update=batch))
    for less in (
        {**batch, "max_num_seqs": max(1, batch["max_num_seqs"] - fewer)},
        {**batch, "max_num_batched_tokens": 2048},
    ):
        after = plan(model, hardware, options.model_copy(update=less))
        assert after.largest_context >= before.largest_context
        assert not before.fits or after.fits


@settings(max_examples=40, deadline=None)
@given(launches(), st.integers(24, 300))
def test_more_gpus_never_make_it_worse(launch, gib):
    model, hardware, options = launch
    few = options.model_copy(update={"parallel": Parallel(tensor=4)})
    many = options.model_copy(update={"parallel": Parallel(tensor=8)})
    card = hardware.model_copy(update={"memory_bytes": gib * GIB, "nodes": 1})
    before = plan(model, card.model_copy(update={"gpus_per_node": 4}), few)
    after = plan(model, card.model_copy(update={"gpus_per_node": 8}), many)
    assert not after.problems
    assert after.largest_context >= before.largest_context
    assert not before.fits or after.fits


@settings(max_examples=40, deadline=None)
@given(launches())
def test_narrower_rows_never_make_it_worse(launch):
    model, hardware, options = launch
    wide = plan(model, hardware, options.model_copy(update={"kv_cache_dtype": "bfloat16"}))
    narrow = plan(model, hardware, options.model_copy(update={"kv_cache_dtype": "fp8_ds_mla"}))
    assert narrow.kv_token_bytes <= wide.kv_token_bytes
    assert narrow.largest_context >= wide.largest_context


def test_pipeline_parallelism_is_not_offered_where_vllm_has_none():
    """glm5_next hands no hyper-connections from rank to rank; its models have no make_empty_intermediate_tensors."""
    model = find_model("GLM-5.3-Flash-BF16").geometry()
    hardware = Hardware(name="NVIDIA A100 80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    options = PlanOptions(parallel=Parallel(tensor=8))
    assert plan(model, hardware, options).fits is False
    assert not any("pipeline parallel" in shape.what for shape in nearest_shapes(model, hardware, options))
    two = plan(model, hardware.model_copy(update={"nodes": 2}), PlanOptions(parallel=Parallel(tensor=8, pipeline=2)))
    assert two.fits is False
    assert any("--pipeline-parallel-size 2" in one for one in two.problems)


def test_engram_tables_lie_in_host_memory_once():
    model = find_model("DeepSeek-V4.1-Flash").geometry()
    hardware = Hardware(name="NVIDIA A100 80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    found = plan(model, hardware, PlanOptions(parallel=Parallel(tensor=8)))
    assert found.fits
    # Eight ranks, two tables: 12.3 GB of values and 0.4 GB of scales each, pinned as 16 and 0.5 GiB.
    assert found.host_bytes == 8 * 2 * (2**34 + 2**29)
    assert sum(line.bytes for line in found.lines if line.name.startswith("weights")) < 42 * GIB
    offload = plan(model, hardware, PlanOptions(parallel=Parallel(tensor=8), cpu_offload_gib=4))
    assert offload.host_bytes == found.host_bytes + 8 * 4 * GIB
    shared = hardware.model_copy(update={"nodes": 2})
    copies = plan(model, shared, PlanOptions(parallel=Parallel(tensor=8, data=2)))
    assert copies.host_bytes == 202_758_031_872  # a file of just that size
    small = plan(
        model, hardware.model_copy(update={"host_memory_bytes": 128 * GIB}), PlanOptions(parallel=Parallel(tensor=8))
    )
    assert small.fits is False
    assert "264 GiB of pinned host memory" in small.problems[0]


def test_engram_tables_lie_where_the_engram_s_configuration_puts_them():
    model = find_model("DeepSeek-V4.1-Flash").geometry()
    hardware = Hardware(name="NVIDIA A100 80GB", gpus_per_node=8, memory_bytes=80 * GIB, host_memory_bytes=220 * GIB)
    options = PlanOptions(parallel=Parallel(tensor=8))
    pinned = plan(model, hardware, options)
    assert pinned.fits is False
    assert "--engram-config '{\"use_thp\": true}' takes 189 GiB" in pinned.problems[0]
    huge = plan(model, hardware, options.model_copy(update={"tables": "huge pages"}))
    assert huge.fits
    assert huge.host_bytes == 202_758_031_872
    there = plan(model, hardware, options.model_copy(update={"tables": "GPU"}))
    assert there.host_bytes == 0
    assert next(line.bytes for line in there.lines if line.name == "engram tables") == 202_758_031_872 // 8
    assert there.kv_cache_bytes == huge.kv_cache_bytes - 202_758_031_872 // 8


def test_engram_tables_count_on_the_gpu_that_shares_the_hosts_memory():
    gb10 = find_gpu("gb10")
    hardware = Hardware(
        name=gb10.name, gpus_per_node=1, nodes=8, memory_bytes=gb10.memory_bytes, free_bytes=gb10.free_mib * 2**20
    )
    found = plan(find_model("DeepSeek-V4.1-Flash").geometry(), hardware, PlanOptions(parallel=Parallel(tensor=8)))
    assert found.host_bytes == 0
    assert next(line.bytes for line in found.lines if line.name == "engram tables") == 2 * (2**34 + 2**29)


@pytest.mark.parametrize(
    ("dtype", "per_token"),
    [("bfloat16", 78 * 576 * 2 + 78 * 132), ("fp8_ds_mla", 78 * 656 + 78 * 132)],
)
def test_kv_bytes_per_token(dtype, per_token):
    hardware = Hardware(name="NVIDIA A100", gpus_per_node=8, memory_bytes=80 * GIB)
    options = PlanOptions(parallel=Parallel(tensor=8), kv_cache_dtype=dtype, attention_backend="TRITON_MLA_SPARSE")
    assert plan(find_model("GLM-5-FP8").geometry(), hardware, options).kv_token_bytes == per_token


def test_unknown_memory_is_not_judged():
    hardware = Hardware(name="NVIDIA GB10", gpus_per_node=1, memory_bytes=None)
    found = plan(find_model("GLM-5-FP8").geometry(), hardware, PlanOptions(parallel=Parallel()))
    assert found.fits is None
    assert (found.budget_bytes, found.kv_cache_bytes, found.largest_context) == (None, None, None)
    assert sum(line.bytes for line in found.lines) > 700e9


def test_sizes_that_vllm_refuses_do_not_fit_whatever_the_memory():
    hardware = Hardware(name="NVIDIA H200", gpus_per_node=32, memory_bytes=1000 * GIB)
    found = plan(find_model("GLM-5-FP8").geometry(), hardware, PlanOptions(parallel=Parallel(tensor=32)))
    assert found.fits is False
    assert any("moe_intermediate_size 2048 over 32 ranks" in one for one in found.problems)


def test_one_a100_node_is_rejected_with_the_shortfall_and_shapes_that_fit():
    model = find_model("GLM-5-FP8").geometry()
    hardware = Hardware(name="NVIDIA A100 80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    options = PlanOptions(parallel=Parallel(tensor=8))
    found = plan(model, hardware, options)
    assert found.fits is False
    assert 15 * GIB < found.shortfall_bytes < 25 * GIB
    shapes = nearest_shapes(model, hardware, options)
    assert [shape.what.split(" ")[0] for shape in shapes] == ["--nodes", "--cpu-offload-gb"]
    assert shapes[0].plan.parallel.pipeline == 2
    assert "GiB of pinned host memory" in shapes[1].cost
    assert all(shape.plan.fits for shape in shapes)


def test_offload_is_not_proposed_where_the_host_has_not_the_memory():
    model = find_model("GLM-5-FP8").geometry()
    hardware = Hardware(name="NVIDIA A100", gpus_per_node=8, memory_bytes=80 * GIB, host_memory_bytes=64 * GIB)
    shapes = nearest_shapes(model, hardware, PlanOptions(parallel=Parallel(tensor=8)))
    assert not any("offload" in shape.what for shape in shapes)


def test_offload_is_not_proposed_where_the_gpu_shares_the_hosts_memory():
    gb10 = find_gpu("gb10")
    hardware = Hardware(name=gb10.name, gpus_per_node=1, nodes=2, memory_bytes=gb10.memory_bytes, free_bytes=100 * GIB)
    shapes = nearest_shapes(find_model("GLM-5.3-Flash").geometry(), hardware, PlanOptions(parallel=Parallel(tensor=2)))
    assert not any("offload" in shape.what for shape in shapes)


def test_nodes_of_one_gpu_share_the_heads_where_the_layers_cannot_be_shared():
    gb10 = find_gpu("gb10")
    hardware = Hardware(name=gb10.name, gpus_per_node=gb10.per_node, memory_bytes=gb10.memory_bytes)
    model, options = find_model("GLM-5.3-Flash").geometry(), PlanOptions(parallel=Parallel(tensor=1))
    (shape, *_) = nearest_shapes(model, hardware, options)
    assert shape.what == "--nodes 4 -tp 4 -pp 1"
    assert (shape.plan.parallel.world_size, shape.plan.fits) == (4, True)
    assert "tensor parallel" in nearest_shapes(find_model("GLM-5-FP8").geometry(), hardware, options)[0].what


def test_a_context_too_long_is_answered_with_a_shorter_one_and_with_fp8():
    model = find_model("GLM-5.2-FP8").geometry()
    hardware = Hardware(name="NVIDIA H200", gpus_per_node=8, memory_bytes=141 * GIB)
    options = PlanOptions(parallel=Parallel(tensor=8), max_model_len=600_000, kv_cache_dtype="bfloat16")
    assert plan(model, hardware, options).fits is False
    shapes = {shape.what.split(" ")[0]: shape for shape in nearest_shapes(model, hardware, options)}
    assert {"--max-model-len", "--kv-cache-dtype"} <= shapes.keys()
    assert shapes["--max-model-len"].plan.max_model_len < 420_000


@pytest.mark.parametrize("eager", [False, True])
def test_what_only_estimates_speak_against_is_not_called_a_misfit(eager):
    """Ever longer contexts: it fits, then the estimates decide for as many GiB as they hold, then it does not fit."""
    model = find_model("GLM-5.2-FP8").geometry()
    hardware = Hardware(name="NVIDIA H200", gpus_per_node=8, memory_bytes=141 * GIB)

    def at(context):
        options = PlanOptions(
            parallel=Parallel(tensor=8), max_model_len=context, kv_cache_dtype="bfloat16", enforce_eager=eager
        )
        return plan(model, hardware, options)

    found = [at(context) for context in range(250_000, 650_000, 10_000)]
    said = [one.fits for one in found]
    assert said == sorted(said, key=[True, None, False].index)
    assert set(said) == {True, None, False}
    for one in found:
        assert one.estimates_decide == (one.fits is None)
        estimated = sum(line.bytes for line in one.lines if line.name in {"reserve", "CUDA graphs", "activations"})
        assert 0 < one.uncertain_bytes < estimated
        assert (one.fits is False) == (one.shortfall_bytes > one.uncertain_bytes)


def test_another_quantisation_is_proposed_by_name():
    hardware = Hardware(name="NVIDIA H200", gpus_per_node=8, memory_bytes=141 * GIB)
    shapes = nearest_shapes(find_model("GLM-5").geometry(), hardware, PlanOptions(parallel=Parallel(tensor=8)))
    assert "GLM-5-FP8" in {shape.what for shape in shapes}


@pytest.mark.parametrize(
    ("model", "proposed"),
    [
        ("GLM-5.2-FP8", {"GLM-5.2-AWQ-INT4", "GLM-5.2-W4A16-MTP", "GLM-5.2-NVFP4"}),
        ("GLM-5.3-Flash-BF16", {"GLM-5.3-Flash", "GLM-5.3-Flash-AWQ-W4A16"}),
        ("GLM-5.1-FP8", {"GLM-5.1-NVFP4"}),
        ("DeepSeek-V3.2", set()),
    ],
)
def test_a_node_of_a100_is_offered_the_checkpoints_that_fit_it(model, proposed):
    card = find_gpu("a100")
    hardware = Hardware(name=card.name, gpus_per_node=8, memory_bytes=card.memory_bytes)
    shapes = nearest_shapes(find_model(model).geometry(), hardware, PlanOptions(parallel=Parallel(tensor=8)))
    assert {shape.what for shape in shapes if not shape.what.startswith("--")} == proposed


def test_the_batch_is_left_alone_where_it_fits_and_lowered_where_it_must_be():
    model = find_model("GLM-5-FP8").geometry()
    hardware = Hardware(name="NVIDIA A800 80GB", gpus_per_node=8, nodes=2, memory_bytes=80 * GIB)
    roomy = plan(model, hardware, PlanOptions(parallel=Parallel(tensor=8, pipeline=2)))
    assert (roomy.sets_batch, roomy.batched_tokens, roomy.sequences) == (False, 8192, 1024)
    tight = PlanOptions(
        parallel=Parallel(tensor=8), cpu_offload_gib=20, max_model_len=8192, gpu_memory_utilization=0.95
    )
    lowered = plan(model, hardware.model_copy(update={"nodes": 1}), tight)
    assert lowered.fits
    assert (lowered.sets_batch, lowered.batched_tokens) == (True, 2048)


def test_unified_memory_is_planned_up_to_what_is_free_at_a_start():
    """vLLM refuses a share above what is free: 0.87 failed and 0.82 to 0.83 ran on GB10 (MiaAI-Lab recipe, #47)."""
    gb10 = find_gpu("gb10")
    hardware = Hardware(
        name=gb10.name, gpus_per_node=2, memory_bytes=gb10.memory_bytes, free_bytes=gb10.free_mib * 2**20
    )
    model = find_model("GLM-5-FP8").geometry()
    found = plan(model, hardware, PlanOptions(parallel=Parallel(tensor=2)))
    assert found.gpu_memory_utilization == 0.83
    assert found.budget_bytes <= hardware.free_bytes
    asked = plan(model, hardware, PlanOptions(parallel=Parallel(tensor=2), gpu_memory_utilization=0.87))
    assert any("0.87" in one and "up to 0.83" in one for one in asked.problems)
    assert plan(model, hardware, PlanOptions(parallel=Parallel(tensor=2), gpu_memory_utilization=0.8)).problems == ()


def _guessed(section):
    config = {**find_model("GLM-5.2").config, "quantization_config": section}
    return geometry_from_config(config, name="GLM-5.2", source="test")


def test_an_unknown_method_is_a_range_and_never_exact():
    hardware = Hardware(name="NVIDIA A100-SXM4-80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    found = plan(_guessed({"quant_method": "novel"}), hardware, PlanOptions(parallel=Parallel(tensor=8)))
    assert found.fits is None
    assert found.disk_low_bytes < 120e9 < 1400e9 < found.disk_bytes
    weights = [line for line in found.lines if line.name.startswith("weights: ")]
    assert {line.label for line in weights} == {"estimated"}
    experts = next(line for line in weights if line.name == "weights: routed experts")
    assert 0 < experts.low_bytes < experts.bytes
    assert found.weights_doubts == ("how novel stores weights is not known here",)


def test_an_unknown_method_of_known_bits_narrows_the_range():
    hardware = Hardware(name="NVIDIA A100-SXM4-80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    options = PlanOptions(parallel=Parallel(tensor=8))
    assert plan(_guessed({"quant_method": "novel", "bits": 3}), hardware, options).fits is True
    assert plan(_guessed({"quant_method": "novel", "bits": 8}), hardware, options).fits is False


def test_what_is_known_has_no_range():
    found = plan(
        find_model("GLM-5-FP8").geometry(),
        Hardware(name="x", gpus_per_node=8),
        PlanOptions(parallel=Parallel(tensor=8)),
    )
    assert found.disk_low_bytes is None
    assert found.weights_doubts == ()
    assert all(line.low_bytes is None for line in found.lines)


def test_deepseek_v4_under_the_plugin_has_plain_rows_and_an_unpacked_projection():
    model = find_model("DeepSeek-V4-Flash").geometry()
    hardware = Hardware(name="NVIDIA A100 80GB", gpus_per_node=8, memory_bytes=80 * GIB)
    stock, ours = (
        plan(model, hardware, PlanOptions(parallel=Parallel(tensor=8), attention_backend=backend))
        for backend in ("auto", "TRITON_MLA_SPARSE")
    )
    assert (stock.kv_token_bytes, ours.kv_token_bytes) == (3916, 6250)
    assert not any(line.name == "unpacked projections" for line in stock.lines)
    (line,) = [one for one in ours.lines if one.name == "unpacked projections"]
    values = 43 * 8 * 1024 * 8 * 512 // 8  # wo_a of every layer, its eighth
    assert line.bytes == values * 2 - values - values // 128**2  # bf16 less e4m3 and a scale per block
    tight = hardware.model_copy(update={"memory_bytes": 24 * GIB})
    options = PlanOptions(parallel=Parallel(tensor=8), attention_backend="TRITON_MLA_SPARSE", max_model_len=1_048_576)
    assert not any("fp8_ds_mla" in shape.what for shape in nearest_shapes(model, tight, options))
