"""The parts of DeepSeek-V4's path, each on its own: the loaded projection, rows of the cache, the stand-ins."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dsa_doctor.plugin import indices, ops
from dsa_doctor.plugin.families import deepseek_v4_ops as served
from dsa_doctor.plugin.families.deepseek_v4 import with_own_attention
from dsa_doctor.plugin.families.deepseek_v4_weights import keep_as_stored_values, values_of
from dsa_kernels.compressor import naive_compress_to_rows
from dsa_kernels.fp8 import naive_fused_indexer_q
from dsa_kernels.sparse_mla import naive_sparse_mla_fwd


def layer(weight: torch.Tensor, **more: Any) -> Any:
    """A linear layer as vLLM makes it, with a method that would spoil the weight for a batched product."""

    def repack(loaded: Any) -> None:
        loaded.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.int32), requires_grad=False)

    made = torch.nn.Module()
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    made.quant_method = SimpleNamespace(process_weights_after_loading=repack)
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.float32])
def test_blocks_of_fp8_become_the_values_that_they_stand_for(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(200, 300, generator=generator).to(torch.float8_e4m3fn)  # neither is a multiple of a block
    scale = torch.tensor([[0.5, 2.0, 1.0], [4.0, 0.25, 8.0]]).to(dtype)
    made = layer(codes, weight_scale_inv=torch.nn.Parameter(scale, requires_grad=False), weight_block_size=[128, 128])
    keep_as_stored_values(made)
    made.quant_method.process_weights_after_loading(made)
    assert made.weight.dtype is torch.bfloat16
    assert not hasattr(made, "weight_scale_inv")
    for row, column in [(0, 0), (127, 128), (128, 0), (199, 299), (128, 255), (0, 256)]:
        wanted = codes[row, column].float() * scale[row // 128, column // 128].float()
        assert made.weight[row, column] == wanted.bfloat16()
    once = made.weight.clone()
    made.quant_method.process_weights_after_loading(made)  # as after a reload of weights in this form
    assert torch.equal(made.weight, once)


def test_scales_of_rows_and_of_the_whole() -> None:
    codes = torch.ones(3, 4).to(torch.float8_e4m3fn)
    assert values_of(codes, torch.tensor([1.0, 2.0, 3.0]), None)[:, 0].tolist() == [1, 2, 3]
    assert values_of(codes, torch.tensor(2.0), None).unique().tolist() == [2]


def test_bf16_is_left_alone_and_anything_else_is_refused() -> None:
    made = layer(torch.ones(2, 2, dtype=torch.bfloat16))
    keep_as_stored_values(made)
    made.quant_method.process_weights_after_loading(made)
    assert made.weight.tolist() == [[1, 1], [1, 1]]
    for wrong in (torch.ones(2, 2, dtype=torch.uint8), torch.ones(2, 2).to(torch.float8_e4m3fn)):
        with pytest.raises(NotImplementedError, match="DSA_DOCTOR_PLUGIN=off"):
            keep_as_stored_values(layer(wrong))


def test_rows_of_a_prefill_that_attends_to_all_of_them() -> None:
    tables = torch.tensor([[7, 2, 5], [1, 0, 4]], dtype=torch.int32)
    wide = torch.full((3, 16), 99, dtype=torch.int32)[:, :8]  # a slice of vLLM's buffer
    found = indices.all_rows(torch.tensor([0, 1, 1], dtype=torch.int32), tables, 2, out=wide)
    assert found.tolist() == [[14, 15, 4, 5, 10, 11, -1, -1], *[[2, 3, 0, 1, 8, 9, -1, -1]] * 2]
    narrow = torch.empty((1, 3), dtype=torch.int32)
    assert indices.all_rows(torch.tensor([1], dtype=torch.int32), tables, 2, out=narrow).tolist() == [[2, 3, 0]]


def test_selected_rows_of_padding_count_for_nothing() -> None:
    tables = torch.tensor([[7, 2]], dtype=torch.int32)
    positions = torch.tensor([[1, 64, -1], [0, 2, 65]], dtype=torch.int32)
    requests = torch.zeros(2, dtype=torch.int32)
    rows, counts = indices.compressed_rows(positions, requests, tables, 64, torch.tensor([True, False]))
    assert rows[0].tolist() == [449, 128, -1]
    assert counts.tolist() == [2, 0]


def test_one_softmax_and_one_sink_over_both_sources() -> None:
    generator = torch.Generator().manual_seed(1)
    window, compressed = (torch.randn(3, size, 1, 512, generator=generator).bfloat16() for size in (64, 2))
    q, sink = torch.randn(2, 4, 512, generator=generator).bfloat16(), torch.randn(4, generator=generator)
    rows, selected = torch.tensor([[[3, 70, 5]], [[9, 1, -1]]]).int(), torch.tensor([[[0, 5]], [[4, 1]]]).int()
    counts, chosen = torch.tensor([3, 2]).int(), torch.tensor([2, 1]).int()
    out = torch.empty(2, 4, 512, dtype=torch.bfloat16)
    ops.window_and_selected_mla(q, (window, rows, counts), (compressed, selected, chosen), 0.04, sink, out)
    every = torch.cat((window.reshape(-1, 1, 512), compressed.reshape(-1, 1, 512)))
    joined = torch.tensor([[[3, 70, 5, 192, 197]], [[9, 1, 196, -1, -1]]]).int()
    wanted, _, _ = naive_sparse_mla_fwd(q, every, joined, 0.04, attn_sink=sink)
    assert torch.allclose(out.double(), wanted, atol=2e-2)
    ops.window_and_selected_mla(q, (window, rows, counts), None, 0.04, sink, out)
    alone, _, _ = naive_sparse_mla_fwd(q, every, rows, 0.04, attn_sink=sink)
    assert torch.allclose(out.double(), alone, atol=2e-2)
    assert not torch.allclose(wanted, alone, atol=2e-2)


def test_the_query_is_rotated_at_its_end() -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(3, 8, 128, generator=generator).bfloat16()
    angles = torch.randn(9, 32, generator=generator)
    given = (torch.tensor([0, 3, 8]), q, torch.cat((angles.cos(), angles.sin()), 1), torch.randn(3, 8), 0.1, 0.3)
    codes, weights = served.fused_indexer_q_rope_quant(*given, use_fp4=False)
    wanted, scaled = naive_fused_indexer_q(*given, is_neox=False, rope_last=True)
    assert torch.equal(codes.view(torch.uint8), wanted.view(torch.uint8))
    assert torch.equal(weights, scaled)
    for wrong in ({"use_fp4": True}, {"weights_out_dtype": torch.bfloat16}):
        with pytest.raises(NotImplementedError, match="fp8 query alone"):
            served.fused_indexer_q_rope_quant(*given, **wrong)


def compressing(cache: torch.Tensor, **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    slots = torch.where(torch.arange(20) % 8 == 7, torch.arange(20) // 8, -1)
    return {
        "state_cache": torch.randn(4, 8, 1024, generator=generator), "num_actual": 16,
        "token_to_req_indices": torch.zeros(20, dtype=torch.int32), "positions": torch.arange(20),
        "slot_mapping": torch.arange(16), "block_table": torch.tensor([[2, 0, 1]], dtype=torch.int32), "block_size": 8,
        "state_width": 512, "cos_sin_cache": torch.randn(64, 64, generator=generator), "kv_cache": cache,
        "k_cache_metadata": SimpleNamespace(slot_mapping=slots),
        "pdl_kwargs": {}, "head_dim": 512, "rope_head_dim": 64, "compress_ratio": 8, "overlap": False,
        "use_fp4_cache": False, "rms_norm_weight": torch.rand(512, generator=generator), "rms_norm_eps": 1e-6,
        "quant_block": 64, "token_stride": 576, "scale_dim": 8, **more,
    }  # fmt: skip


def test_tokens_beyond_a_step_are_not_compressed() -> None:
    cache = torch.zeros(2, 2, 512, dtype=torch.bfloat16)
    given = compressing(cache, store_full_kv=True, store_full_fp8=False, fp8_scale=None)
    served.compress_norm_rope_store(**given)
    wanted = torch.zeros_like(cache)
    naive_compress_to_rows(
        wanted, state_cache=given["state_cache"], token_to_request=given["token_to_req_indices"][:16],
        positions=torch.arange(16), state_slots=given["slot_mapping"], block_table=given["block_table"],
        norm_weight=given["rms_norm_weight"], eps=1e-6, cos_sin_cache=given["cos_sin_cache"],
        slot_mapping=given["k_cache_metadata"].slot_mapping[:16], ratio=8, overlap=False,
    )  # fmt: skip
    assert cache[0].any()
    assert torch.equal(cache, wanted)


@pytest.mark.parametrize(
    "wrong", [{"kv_cache": torch.zeros(2, 2, 584, dtype=torch.uint8)}, {"use_fp4_cache": True}, {"head_dim": 128}]
)
def test_other_caches_are_refused(wrong: dict[str, Any]) -> None:
    given = {**compressing(torch.zeros(2, 2, 512, dtype=torch.bfloat16)), **wrong}
    with pytest.raises(NotImplementedError, match="--kv-cache-dtype auto"):
        served.compress_norm_rope_store(**given)


def test_the_mhc_product_is_whole_in_whatever_splits() -> None:
    x, fn = torch.randn(3, 64).bfloat16(), torch.randn(24, 64)
    for splits in (1, 4):
        out, squares = torch.full((splits, 3, 24), 9.0), torch.full((splits, 3), 9.0)
        served.tf32_hc_prenorm_gemm(x, fn, out, squares, splits)
        assert torch.allclose(out.sum(0), x.float() @ fn.T, atol=1e-4)
        assert torch.allclose(squares.sum(0), x.float().square().sum(-1), atol=1e-4)
        again, more = torch.empty_like(out), torch.empty_like(squares)
        served.PrenormGemm()(x, fn, again, more, 16, 4, n_splits=splits)
        assert torch.equal(again, out)
        assert torch.equal(more, squares)


def test_another_backend_by_name_gets_vllm_s_own_class() -> None:
    pytest.importorskip("vllm")
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    select = with_own_attention(lambda vllm_config: "vLLM's")
    named = SimpleNamespace(attention_config=SimpleNamespace(backend=AttentionBackendEnum.FLASHMLA_SPARSE))
    assert select(named) == "vLLM's"
