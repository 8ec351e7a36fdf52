"""Floors by hand: each figure here is worked out from the op's definition, not from the code."""

import pytest

from dsa_kernels.bench import Machine, Work, work

MACHINE = Machine("GPU", "8.0", "", "1", "2", "3", copy_bytes_per_s=1e12, bf16_flop_per_s=1e14, l2_bytes=2**20)


def test_floors_are_bytes_and_flop_at_the_ceilings():
    assert Work(2e6, 3e9).floors(MACHINE) == pytest.approx((2.0, 30.0))
    assert Work(2e6, 3e9).intensity == 1500.0


def test_sparse_mla_counts_gathered_rows_queries_outputs_and_indices():
    found = work.sparse_mla_work(tokens=4, heads=8, selected=16, cache_rows=10**6, row_bytes=1152, d_qk=576)
    rows, q, out, indices = 4 * 16 * 1152, 4 * 8 * 576 * 2, 4 * 8 * 512 * 2, 4 * 16 * 4
    assert found.moved_bytes == rows + q + out + indices
    assert found.flop == 2 * 4 * 8 * 16 * 576 + 2 * 4 * 8 * 16 * 512


def test_a_small_cache_is_read_once():
    once = work.sparse_mla_work(4, 8, 16, 10, 656, 576)
    assert once.moved_bytes == 10 * 656 + 4 * 8 * (576 + 512) * 2 + 4 * 16 * 4


def test_logits():
    ragged = work.ragged_logits_work(rows=3, keys=10, pairs=27.0, heads=4)
    assert ragged.moved_bytes == 27 * 4 + 3 * 4 * 128 + 3 * 4 * 4 + 10 * 132
    assert ragged.flop == 27 * 4 * 128 * 2
    paged = work.paged_logits_work(batch=2, next_n=3, context=10, heads=4)
    assert paged.moved_bytes == 2 * 10 * 132 + 6 * 10 * 4 + 6 * 4 * 128 + 6 * 4 * 4
    assert paged.flop == 6 * 10 * 4 * 128 * 2


def test_selection_reads_each_logit_once():
    assert work.topk_work(3, 100, 8).moved_bytes == 3 * 100 * 4 + 3 * 8 * 4
    assert work.topk_work(3, 100, 8).flop == 0
    chunked = work.chunked_work(rows=3, keys=10, pairs=27.0, heads=4, topk=5)
    assert chunked.moved_bytes == 3 * 4 * 132 + 10 * 132 + 3 * 5 * 4


def test_quantisation():
    # q in bf16, codes out, weights in and out in fp32; 64 cosines and sines and an int64 position a token.
    assert work.q_quant_work(2, 3, 64).moved_bytes == 2 * 3 * (256 + 128 + 4 + 4) + 2 * (256 + 8)
    # a key in bf16, an int64 slot, codes and a scale out.
    assert work.k_cache_work(5).moved_bytes == 5 * (256 + 8 + 132)
