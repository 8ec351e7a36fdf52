import pytest

from dsa_doctor.bench.shapes import OPS, BenchError, Load, fit, setting_of, shapes_of
from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model


def setting(name="GLM-5-FP8", **load):
    return setting_of(find_model(name).geometry(), Load(**load))


@pytest.mark.parametrize(
    ("name", "parallel", "heads", "index_heads", "is_neox"),
    [("GLM-5-FP8", 8, 8, 32, False), ("GLM-5", 4, 16, 32, False), ("DeepSeek-V3.2", 8, 16, 64, True)],
)
def test_heads_follow_from_model_and_parallelism(name, parallel, heads, index_heads, is_neox):
    found = setting(name, tensor_parallel_size=parallel)
    assert (found.heads, found.index_heads, found.is_neox) == (heads, index_heads, is_neox)
    assert (found.d_qk, found.index_topk, found.next_n, found.rope) == (576, 2048, 1, 64)


def test_every_op_has_its_shapes():
    found = shapes_of(setting(batch_sizes=(1, 64), speculative_tokens=3, context=65536, prefill_tokens=2048))
    by_op = {op: [one.values for one in found if one.op == op] for op in OPS}
    assert [one.op for one in found] == sorted((one.op for one in found), key=OPS.index)
    step = {"next_n": 4, "context": 65536}
    attention = {"heads": 8, "cache": "bf16", "k": 2048}
    assert by_op == {
        "sparse MLA decode": [{"batch": one, **step, **attention} for one in (1, 64)],
        "sparse MLA prefill": [{"tokens": 2048, "context": 65536, **attention}],
        "paged logits": [{"batch": one, **step, "heads": 32} for one in (1, 64)],
        "ragged logits": [{"rows": 2048, "keys": 65536, "heads": 32}],
        "top-k": [{"rows": one, "width": 65536, "k": 2048} for one in (4, 256, 2048)],
        "indexer_topk": [{"rows": 2048, "keys": 65536, "heads": 32, "k": 2048}],
        "q quantisation": [{"tokens": one, "heads": 32, "rope": 64} for one in (256, 2048)],
        "k-cache write": [{"tokens": one} for one in (256, 2048)],
    }


def test_a_family_with_an_indexer_of_its_own_gets_attention_alone():
    found = setting("GLM-5.3-Flash")
    assert (found.d_qk, found.index_heads) == (512, 0)
    assert {one.op for one in shapes_of(found)} == {"sparse MLA decode", "sparse MLA prefill"}


def test_a_prefill_chunk_is_no_longer_than_the_context():
    assert setting(context=1000, prefill_tokens=4096).prefill_tokens == 1000


@pytest.mark.parametrize(
    ("name", "load", "message"),
    [
        (
            "GLM-5-FP8",
            {"tensor_parallel_size": 7},
            r"--tensor-parallel-size 7 does not divide the 64 .*1, 2, 4, 8",
        ),
        ("GLM-5-FP8", {"kv_cache_dtype": "int8"}, r"--kv-cache-dtype int8.*auto, bfloat16, fp8_ds_mla"),
        ("GLM-5.3-Flash", {"kv_cache_dtype": "fp8_ds_mla"}, r"--kv-cache-dtype fp8_ds_mla.*Accepted: auto, bfloat16"),
        ("DeepSeek-V4-Flash", {}, r"DeepSeek-V4-Flash attends to a window .*bench_two_caches"),
        ("GLM-5-FP8", {"context": 10**7}, r"--context 10000000 is more than.*202752"),
        ("GLM-5-FP8", {"context": 2, "speculative_tokens": 3}, r"--context 2 is shorter than the 4 query tokens"),
    ],
)
def test_what_cannot_be_measured_names_the_option(name, load, message):
    with pytest.raises(BenchError, match=message):
        setting(name, **load)


def test_a_model_without_dsa_is_refused():
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "vocab_size": 100,
    }
    with pytest.raises(BenchError, match="no DeepSeek Sparse Attention"):
        setting_of(geometry_from_config(config, name="llama", source="test"), Load())


def test_caches_shrink_to_what_is_free_but_not_below_one_request():
    whole = setting(batch_sizes=(64,), context=32768)
    decode = shapes_of(whole)[0]
    assert decode.op == "sparse MLA decode"
    plenty = fit(decode, whole, 80 * 2**30)
    assert plenty.whole
    assert plenty.rows == 64 * 32768
    half = fit(decode, whole, 2**29 + 32 * 32768 * 1152)
    assert (half.rows, half.wanted) == (32 * 32768, 64 * 32768)
    assert fit(decode, whole, 2**29 + 32767 * 1152).rows == 0


def test_logits_that_do_not_fit_are_not_cut():
    whole = setting(context=131072, prefill_tokens=8192)
    ragged = next(one for one in shapes_of(whole) if one.op == "ragged logits")
    assert fit(ragged, whole, 8 * 2**30).whole
    assert fit(ragged, whole, 4 * 2**30).rows == 0
    assert fit(ragged, whole, 4 * 2**30).bytes_needed == 8192 * 131072 * 4 + 2**29


@pytest.mark.parametrize("dtype", ["auto", "fp8_ds_mla"])
def test_an_fp8_cache_takes_fewer_bytes(dtype):
    whole = setting(kv_cache_dtype=dtype, batch_sizes=(8,))
    assert fit(shapes_of(whole)[0], whole, 2**40).bytes_needed == 8 * 32768 * (656 if dtype != "auto" else 1152) + 2**29
