"""The functions that take the place of vLLM's, on CPU tensors and the references.

tests/dsa_kernels/test_plugin_calls.py runs the numerical ones again on the kernels.
"""

from importlib import import_module

import pytest

torch = pytest.importorskip("torch")

from dsa_doctor.plugin import indices, ops, stand_ins  # noqa: E402
from dsa_kernels.fp8 import naive_fused_indexer_q, naive_indexer_k_quant_and_cache, naive_quantize_fp8  # noqa: E402

# While Triton's interpreter is on, as it is at collection: tests here run without it (see tests/conftest.py).
for _part in ("indexer", "sparse_mla"):
    import_module(f"dsa_kernels.{_part}")

HEADS, TOPK, PAGE = 16, 8, 64


@pytest.fixture
def keys() -> torch.Tensor:
    return torch.randn(200, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def query() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes, scale = naive_quantize_fp8(torch.randn(6, HEADS, 128, generator=generator))
    return codes, torch.randn(6, HEADS, generator=generator) * scale.squeeze(-1)


def paged_cache(keys: torch.Tensor, pages: list[int]) -> torch.Tensor:
    cache = torch.zeros((8, PAGE, 132), dtype=torch.uint8)
    positions = torch.arange(keys.shape[0])
    slots = torch.tensor(pages)[positions // PAGE] * PAGE + positions % PAGE
    naive_indexer_k_quant_and_cache(keys, cache, slots)
    return cache.unsqueeze(-2)


def test_prefill_and_decode_select_the_same_tokens(
    keys: torch.Tensor, query: tuple[torch.Tensor, torch.Tensor]
) -> None:
    codes, weights = query
    k, scale = naive_quantize_fp8(keys)
    ends = torch.tensor([1, 5, 64, 65, 199, 200], dtype=torch.int32)
    starts = torch.zeros_like(ends)
    selected = {}
    full = stand_ins.full_mqa_logits((codes, None), (k, scale.squeeze(-1)), weights, starts, ends, False)
    selected["full"] = torch.empty((6, TOPK), dtype=torch.int32)
    stand_ins.top_k_per_row_prefill(full, starts, ends, selected["full"], 6, *full.stride(), TOPK)
    compressed = stand_ins.compressed_mqa_logits((codes, None), (k, scale.squeeze(-1)), weights, starts, ends, 200)
    selected["compressed"] = torch.empty((6, TOPK), dtype=torch.int32)
    stand_ins.top_k_per_row_prefill(compressed, starts, ends, selected["compressed"], 6, *compressed.stride(), TOPK)
    tables = torch.tensor([[3, 1, 6, 0]] * 6, dtype=torch.int32)
    paged = stand_ins.paged_mqa_logits(
        (codes.unsqueeze(1), None), paged_cache(keys, [3, 1, 6, 0]), weights, ends.unsqueeze(1), tables, None, 256
    )
    selected["paged"] = torch.empty((6, TOPK), dtype=torch.int32)
    stand_ins.decode_topk(paged, ends.unsqueeze(1), selected["paged"], None, TOPK, 200)
    # vLLM's index buffer may be wider than the selection.
    selected["strided"] = torch.empty((6, 3 * TOPK), dtype=torch.int32)[:, :TOPK]
    stand_ins.top_k_per_row_decode(paged, 1, ends.unsqueeze(1), selected["strided"], 6, *paged.stride(), TOPK)
    for name, found in selected.items():
        assert [set(row.tolist()) for row in found] == [set(row.tolist()) for row in selected["full"]], name
    assert (selected["full"][0] == torch.tensor([0] + [-1] * (TOPK - 1))).all()


def test_a_chunk_behind_other_requests_selects_relative_to_its_start(
    keys: torch.Tensor, query: tuple[torch.Tensor, torch.Tensor]
) -> None:
    codes, weights = query
    k, scale = naive_quantize_fp8(keys)
    starts = torch.full((6,), 50, dtype=torch.int32)
    ends = torch.arange(150, 156, dtype=torch.int32)
    alone = k[50:], scale.squeeze(-1)[50:]
    logits = stand_ins.full_mqa_logits((codes, None), (k, scale.squeeze(-1)), weights, starts, ends, False)
    moved = stand_ins.full_mqa_logits((codes, None), alone, weights, starts - 50, ends - 50, False)
    found, wanted = torch.empty((2, 6, TOPK), dtype=torch.int32)
    stand_ins.top_k_per_row_prefill(logits, starts, ends, found, 6, *logits.stride(), TOPK)
    stand_ins.top_k_per_row_prefill(moved, starts - 50, ends - 50, wanted, 6, *moved.stride(), TOPK)
    assert torch.equal(found.sort().values, wanted.sort().values)


def test_draft_tokens_see_one_more_key_each(keys: torch.Tensor, query: tuple[torch.Tensor, torch.Tensor]) -> None:
    codes, weights = query
    lengths = torch.tensor([70, 130, 200], dtype=torch.int32)
    assert stand_ins.row_ends(lengths, 2, 6).tolist() == [69, 70, 129, 130, 199, 200]
    assert stand_ins.row_ends(torch.tensor([0], dtype=torch.int32), 2, 2).tolist() == [0, 0]
    both = torch.stack((lengths - 1, lengths), 1)
    assert stand_ins.row_ends(both, 2, 6).tolist() == [69, 70, 129, 130, 199, 200]
    tables = torch.tensor([[3, 1, 6, 0]] * 3, dtype=torch.int32)
    cache = paged_cache(keys, [3, 1, 6, 0])
    pairs = stand_ins.paged_mqa_logits((codes.unflatten(0, (3, 2)), None), cache, weights, both, tables, None, 256)
    single = stand_ins.paged_mqa_logits(
        (codes.unsqueeze(1), None), cache, weights, both.reshape(6, 1), tables.repeat_interleave(2, 0), None, 256
    )
    for row, end in enumerate(both.flatten().tolist()):
        assert torch.equal(pairs[row, :end], single[row, :end])


def test_the_fused_query_is_an_op_that_the_compiler_takes_whole() -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(5, HEADS, 128, generator=generator).to(torch.bfloat16)
    angles = torch.randn(9, 32, generator=generator)
    tables = torch.cat((angles.cos(), angles.sin()), 1)
    both = torch.randn(5, 128 + HEADS, generator=generator)
    positions = torch.tensor([0, 3, 8, 1, 1])

    def forward(positions: torch.Tensor, q: torch.Tensor, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return stand_ins.fused_indexer_q_rope_quant(positions, q, tables, both[:, 128:], 128**-0.5, 0.25, False)

    codes, weights = torch.compile(forward, backend="eager", fullgraph=True)(positions, q, both)
    wanted, scaled = naive_fused_indexer_q(positions, q, tables, both[:, 128:], 128**-0.5, 0.25, False)
    assert torch.equal(codes.view(torch.uint8), wanted.view(torch.uint8))
    assert torch.equal(weights, scaled)
    described = torch.ops.dsa_doctor.fused_indexer_q_rope_quant(
        *(one.to("meta") for one in (positions, q, tables, both[:, 128:])), 1.0, 1.0, False
    )
    assert [(one.shape, one.dtype) for one in described] == [(one.shape, one.dtype) for one in (codes, weights)]


def test_padded_batches_bring_too_few_weights(keys: torch.Tensor, query: tuple[torch.Tensor, torch.Tensor]) -> None:
    codes, weights = query
    tables = torch.tensor([[3, 1, 6, 0]] * 3, dtype=torch.int32)
    lengths = torch.tensor([[70, 71], [130, 131], [-1, 0]], dtype=torch.int32)
    cache = paged_cache(keys, [3, 1, 6, 0])
    padded = stand_ins.paged_mqa_logits(
        (codes.unflatten(0, (3, 2)), None), cache, weights[:4], lengths, tables, None, 256
    )
    whole = stand_ins.paged_mqa_logits((codes.unflatten(0, (3, 2)), None), cache, weights, lengths, tables, None, 256)
    for row, end in enumerate(lengths.flatten().tolist()[:4]):
        assert torch.equal(padded[row, :end], whole[row, :end])


@pytest.mark.parametrize("lengths", [[1], [2, 1], [3, 0, 1, 3], [0, 2]])
def test_packing_round_trip(lengths: list[int]) -> None:
    total = sum(lengths)
    x = torch.randn(total + 2, 4, 128).to(torch.float8_e4m3fn)  # rows beyond the sequences are padding of a graph
    sizes = torch.tensor(lengths, dtype=torch.int32)
    packed = stand_ins.pack_sequences(x, sizes)
    assert packed.shape == (len(lengths), max(lengths), 4, 128)
    assert packed.dtype == x.dtype
    start = 0
    for row, length in enumerate(lengths):
        assert torch.equal(packed[row, :length].view(torch.uint8), x[start : start + length].view(torch.uint8))
        assert not packed[row, length:].view(torch.uint8).any()
        start += length
    found = torch.arange(len(lengths) * max(lengths) * 5, dtype=torch.int32).reshape(len(lengths), max(lengths), 5)
    flat = torch.cat([found[row, :length] for row, length in enumerate(lengths)])
    assert torch.equal(stand_ins.unpack_sequences(found, sizes), flat)


def test_what_the_indexer_does_not_take_is_refused(query: tuple[torch.Tensor, torch.Tensor]) -> None:
    codes, weights = query
    with pytest.raises(NotImplementedError, match="fp4 or MX"):
        stand_ins.full_mqa_logits((codes, weights), (codes, weights), weights, weights, weights, False)
    with pytest.raises(NotImplementedError, match="no row indices"):
        stand_ins.paged_mqa_logits((codes, None), codes, weights, weights, weights, None, 1, indices=weights)


def test_cache_rows() -> None:
    tables = torch.tensor([[7, 2, 5], [1, 0, 4]], dtype=torch.int32)
    requests = torch.tensor([0, 1, 1], dtype=torch.int32)
    positions = torch.tensor([[0, 64, 191, -1], [63, 130, 192, -5], [-1, -1, -1, -1]], dtype=torch.int32)
    rows, counts = indices.to_cache_rows(requests, tables, positions, 64)
    # 192 lies beyond the table: nothing is read there.
    assert rows.tolist() == [[448, 128, 383, -1], [127, 258, -1, -1], [-1] * 4]
    assert counts.tolist() == [3, 2, 0]


def test_a_selection_with_holes_keeps_its_tail() -> None:
    positions = torch.tensor([[5, -1, -1, 7, -1, 9]], dtype=torch.int32)
    rows, counts = indices.to_cache_rows(
        torch.zeros(1, dtype=torch.int32), torch.tensor([[2]], dtype=torch.int32), positions, 64
    )
    assert counts.tolist() == [3]
    assert rows[0, :3].tolist() == [133, 135, 137]
    assert rows[0, 3:].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kv_format", ["bf16", "fp8_ds_mla"])
def test_attention_over_pages_that_lie_apart(kv_format: str) -> None:
    generator = torch.Generator().manual_seed(2)
    width, dtype = (656, torch.uint8) if kv_format == "fp8_ds_mla" else (576, torch.bfloat16)
    pages = torch.zeros((8, PAGE, width), dtype=dtype)
    if kv_format == "bf16":
        pages.normal_(generator=generator)
    else:
        pages[..., :512] = torch.randn(8, PAGE, 512, generator=generator).to(torch.float8_e4m3fn).view(torch.uint8)
        pages[..., 512:528] = torch.full((8, PAGE, 4), 0.5).view(torch.uint8)
        pages[..., 528:] = torch.randn(8, PAGE, 64, generator=generator).bfloat16().view(torch.uint8)
    q = torch.randn(3, 16, 576, generator=generator).bfloat16()
    positions = torch.tensor([[0, 70, 130, -1], [1, 2, 3, 4], [-1, -1, -1, -1]], dtype=torch.int32)
    tables = torch.tensor([[3, 1, 2], [0, 2, 1]], dtype=torch.int32)
    rows, counts = indices.to_cache_rows(torch.tensor([0, 1, 1], dtype=torch.int32), tables, positions, PAGE)
    out = ops.sparse_mla_with_kvcache(q, pages[::2].unsqueeze(2), rows.unsqueeze(1), 0.05, kv_format, counts)
    flat = pages[::2].reshape(-1, width)
    if kv_format == "fp8_ds_mla":
        values = flat[:, :512].contiguous().view(torch.float8_e4m3fn).float() * 0.5
        flat = torch.cat((values, flat[:, 528:].contiguous().view(torch.bfloat16).float()), -1)
    for token, selected in enumerate(rows.tolist()):
        chosen = flat[[row for row in selected if row >= 0]].float()
        weights = torch.softmax(q[token].float() @ chosen.T * 0.05, -1)
        assert torch.allclose(out[token].float(), weights @ chosen[:, :512], atol=2e-2)


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [("", "cpu", True), ("", "cuda", False), ("reference", "cuda", True), ("triton", "cpu", False)],
)
def test_a_gpu_never_takes_the_references_by_itself(
    monkeypatch: pytest.MonkeyPatch, asked: str, device: str, expected: bool
) -> None:
    monkeypatch.setenv("DSA_DOCTOR_KERNELS", asked)
    assert ops.uses_references.__wrapped__(device) is expected


def test_an_unknown_choice_of_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSA_DOCTOR_KERNELS", "cutlass")
    with pytest.raises(ValueError, match=r"DSA_DOCTOR_KERNELS='cutlass' is not known\. Accepted: triton, reference"):
        ops.uses_references.__wrapped__("cuda")
