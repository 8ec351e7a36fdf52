"""A row's result is the same bits whatever else is in the batch: alone, among others, in chunks, on any number of SMs.

Ops that take `batch_invariant` promise it with that; the others always.
"""

import itertools

import pytest
import torch

from dsa_kernels import gluon_support
from dsa_kernels.compressor import (
    compress_to_index_keys,
    compress_to_rows,
    index_key_norm_rope_store,
    inverse_rope_grouped,
)
from dsa_kernels.engram import engram_lookup
from dsa_kernels.fp8 import fused_indexer_q_rope_quant, indexer_k_quant_and_cache, quantize_fp8_ue8m0
from dsa_kernels.indexer import fp8_mqa_logits, fp8_paged_mqa_logits, indexer_topk, topk_indices
from dsa_kernels.indexer import paged as paged_module
from dsa_kernels.indexer import topk as topk_module
from dsa_kernels.kpool import hadamard_quantize_fp8, kpool_compress_and_cache, kpool_decode_update
from dsa_kernels.mhc import hc_prenorm_gemm
from dsa_kernels.mhc import interface as mhc_module
from dsa_kernels.sparse_mla import interface as mla_module
from dsa_kernels.sparse_mla import launch as mla_launch
from dsa_kernels.sparse_mla import sparse_mla_fwd, sparse_mla_with_kvcache
from dsa_kernels.targets import VERIFIED_TARGETS, running_capability
from tests.dsa_kernels.compressor.test_interface import angles, on, requests
from tests.dsa_kernels.indexer.cases import codes, paged_case, ragged_case
from tests.dsa_kernels.kpool.cases import poisoned_cache, random_rows
from tests.dsa_kernels.sparse_mla.cases import make_case
from tests.dsa_kernels.sparse_mla.test_kvcache import fp8_tokens
from tests.dsa_kernels.sparse_mla.test_two_sources import make_pair

ROWS = 33
"""Rows of the whole batch: no multiple of any tile, and more than a thin top-k shares out."""

PARTS = (
    *([row] for row in (0, 7, 32)),
    [32, 7],
    [3, 7, 1, 32, 30, 0, 2, 9],
    list(range(5)),
    list(range(5, 33)),
)
"""Rows of a batch beside the whole one: alone, two in another order, eight, and the chunks that meet at the fifth."""


def same_bits(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.equal(got.contiguous().view(torch.uint8), wanted.contiguous().view(torch.uint8))


def assert_same_in_every_batch(serve, rows: int = ROWS) -> None:
    """`serve` takes a tensor of row numbers, and returns their results, one line a row in each tensor."""
    whole = serve(torch.arange(rows))
    for part in (torch.tensor(part) for part in PARTS if max(part) < rows):
        for got, wanted in zip(serve(part), whole, strict=True):
            assert same_bits(got, wanted[part.to(wanted.device)]), f"rows {part.tolist()} differ from the whole batch's"


def some_lengths(most: int, device: torch.device, rows: int = ROWS) -> torch.Tensor:
    """[rows] int32 from 1 to `most`, both met, in no order."""
    lengths = torch.randint(1, most + 1, (rows,), generator=torch.Generator().manual_seed(5))
    lengths[0], lengths[7] = most, 1
    return lengths.int().to(device)


@pytest.fixture
def pretend_multiprocessors(monkeypatch):
    """Let an op's module see a GPU of another size."""

    def pretend(module, number: int) -> None:
        facts = module.device_facts
        monkeypatch.setattr(module, "device_facts", lambda device: (facts(device)[0], number))

    return pretend


def key_pages(rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """An indexer cache with a page of four keys for each row, and the first slot of each."""
    return poisoned_cache(rows, 4).to(device), 4 * torch.arange(rows, device=device)


def flat_rows(device, on_gpu, heads: int, dtype=torch.bfloat16, head_dim: int = 576):
    topk, rows = (2048, 20_000) if on_gpu else (520, 700)
    case = make_case(device, ROWS, heads, topk, rows, head_dim, dtype)
    case.topk_length = some_lengths(topk, device)
    case.attn_sink = torch.linspace(-2, 2, heads, device=device)

    def serve(part, **more):
        part = part.to(device)
        given = case.arguments() | {name: getattr(case, name)[part] for name in ("q", "indices", "topk_length")}
        return sparse_mla_fwd(**given, **{"batch_invariant": True, **more})

    return serve


@pytest.mark.parametrize(
    ("heads", "dtype", "head_dim"),
    [(4, torch.bfloat16, 576), (64, torch.bfloat16, 512), (16, torch.float16, 576), (128, torch.bfloat16, 576)],
)
def test_sparse_mla(device, on_gpu, heads, dtype, head_dim):
    if not on_gpu and heads == 128:
        pytest.skip("64 heads are several programs too")
    assert_same_in_every_batch(flat_rows(device, on_gpu, heads, dtype, head_dim))


def test_sparse_mla_without_the_switch_follows_the_batch(device, on_gpu):
    """What the tests beside it would not notice, they could not fail for."""
    serve = flat_rows(device, on_gpu, 4)
    alone, whole = (serve(torch.arange(rows), batch_invariant=False)[0][0] for rows in (1, ROWS))
    assert not same_bits(alone, whole)
    assert torch.allclose(alone.float(), whole.float(), atol=0.02)


def test_sparse_mla_on_a_gpu_of_any_size(device, on_gpu, pretend_multiprocessors):
    serve, part = flat_rows(device, on_gpu, 4), torch.tensor([7, 32])
    wanted = serve(part)
    pretend_multiprocessors(mla_module, 108)
    assert all(map(same_bits, serve(part), wanted))


def test_sparse_mla_in_turns_of_little_scratch(device, on_gpu, monkeypatch):
    """Prefill with many parts would ask for gigabytes at once."""
    serve = flat_rows(device, on_gpu, 4)
    wanted, launched = serve(torch.arange(ROWS)), []
    one = mla_launch._launch
    monkeypatch.setattr(mla_launch, "_MOST_PARTIAL_BYTES", 20 * 2 * 4 * 2048)
    monkeypatch.setattr(mla_launch, "_launch", lambda q, *rest: launched.append(len(q)) or one(q, *rest))
    assert all(map(same_bits, serve(torch.arange(ROWS)), wanted))
    assert len(launched) > 1
    assert sum(launched) == ROWS


@pytest.mark.parametrize("heads", [8, 64])
def test_sparse_mla_over_fp8_rows(device, on_gpu, heads):
    topk, pages = (2048, 300) if on_gpu else (300, 6)
    cache = fp8_tokens((pages, 64, 1), seed=3).to(device)
    case = make_case(device, ROWS, heads, topk, pages * 64)
    lengths = some_lengths(topk, device)

    def serve(part):
        part = part.to(device)
        given = case.q[part], cache, case.indices[part], case.sm_scale
        return sparse_mla_with_kvcache(*given, kv_format="fp8_ds_mla", topk_length=lengths[part], batch_invariant=True)

    assert_same_in_every_batch(serve)


@pytest.mark.parametrize("heads", [8, 64])
def test_sparse_mla_over_two_caches_whatever_the_width_of_the_second_selection(device, on_gpu, heads):
    """DeepSeek-V4's second selection is as wide as the longest request of a step makes it."""
    widths = (128, 1024) if on_gpu else (40, 150)
    pair = make_pair(device, ROWS, heads, widths, page_sizes=(64, 2))
    short, extra = some_lengths(widths[0], device), some_lengths(widths[1], device).flip(0)

    def serve(part):
        part = part.to(device)
        width = int(extra[part].max())
        given = pair.arguments() | {"q": pair.q[part], "indices": pair.indices[part], "topk_length": short[part]}
        given |= {"extra_indices": pair.extra_indices[part, :, :width], "extra_topk_length": extra[part]}
        return sparse_mla_with_kvcache(**given, batch_invariant=True)

    assert_same_in_every_batch(serve)


@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
@pytest.mark.parametrize("gluon", [True, False])
def test_plans_of_sparse_mla_are_one_for_every_batch(monkeypatch, capability, gluon):
    """The Gluon kernels of other GPUs too, which nothing here could run."""
    monkeypatch.setattr(gluon_support, "USABLE", gluon)
    plans: dict[tuple, set] = {}
    cpu = torch.device("cpu")
    for heads, fp8, tokens, size in itertools.product((1, 8, 17, 64, 128), (False, True), (1, 2, 40), (12, 108, 132)):
        monkeypatch.setattr(mla_module, "device_facts", lambda device, size=size: (capability, size))
        seen = plans.setdefault((heads, fp8), set())
        monkeypatch.setattr(
            mla_module, "launch", lambda *given, seen=seen: seen.add(given[-1]) or (torch.empty(0), torch.empty(0))
        )
        q = torch.empty((tokens, heads, 576), dtype=torch.bfloat16)
        cache = torch.empty((1, 64, 1, 656 if fp8 else 576), dtype=torch.uint8 if fp8 else torch.bfloat16)
        indices = torch.empty((tokens, 1, 2048), dtype=torch.int32, device=cpu)
        kind = "fp8_ds_mla" if fp8 else "bf16"
        sparse_mla_with_kvcache(q, cache, indices, 1.0, kv_format=kind, batch_invariant=True)
    assert {len(seen) for seen in plans.values()} == {1}
    assert {next(iter(seen)).num_splits for seen in plans.values()} == {4, 8}


@pytest.mark.parametrize("heads", [16, 32, 64])
def test_ragged_logits(device, on_gpu, heads):
    q, kv, weights, starts, ends = ragged_case(ROWS, heads, 3000 if on_gpu else 150, "random", device)

    def serve(part):
        part = part.to(device)
        return (fp8_mqa_logits(q[part], kv, weights[part], starts[part], ends[part]),)

    assert_same_in_every_batch(serve)


def test_selection_in_chunks_of_any_budget(device, on_gpu):
    keys, k = (3000, 600) if on_gpu else (100, 40)
    q, kv, weights, starts, ends = ragged_case(8, 32, keys, "random", device)
    whole = indexer_topk(q, kv, weights, starts, ends, k)
    for rows in (1, 3):
        part = indexer_topk(q, kv, weights, starts, ends, k, budget_bytes=rows * (4 * keys + 256 * 32))
        assert same_bits(part, whole)


@pytest.mark.parametrize("heads", [32, 64])
def test_paged_logits_with_any_number_of_rows_a_request(device, on_gpu, heads, pretend_multiprocessors):
    rows, longest = (ROWS, 9000) if on_gpu else (9, 100)
    q, cache, weights, lengths, tables = paged_case(rows, 1, heads, 64, longest, device, per_row=True)
    wide = -(-longest // 4) * 4

    def serve(part, next_n=1):
        """Rows as they come, next_n of them to a request; each with pages of its own, so its first row's are read."""
        part = part.to(device)
        given = q[part].expand(-1, next_n, -1, -1), cache, weights[part].repeat_interleave(next_n, 0)
        return (
            fp8_paged_mqa_logits(
                *given, lengths[part].expand(-1, next_n), tables[part], None, wide, batch_invariant=True
            ),
        )

    assert_same_in_every_batch(serve, rows)
    pretend_multiprocessors(paged_module, 500)
    whole = serve(torch.arange(rows))[0]
    for next_n in (2, 3, 4) if on_gpu else (3,):
        for row in (0, 7):
            got = serve(torch.tensor([row]), next_n)[0]
            assert same_bits(got, whole[row].expand(next_n, -1)), f"row {row} differs where next_n is {next_n}"


def test_paged_logits_without_the_switch_follow_next_n(device, on_gpu):
    if on_gpu and running_capability() != 80:
        pytest.skip("on other targets the tables may give one tile for every next_n")
    q, cache, weights, lengths, tables = paged_case(1, 1, 64, 64, 200, device, per_row=True)
    alone = fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, 200)
    given = q.expand(-1, 2, -1, -1), cache, weights.expand(2, -1), lengths.expand(-1, 2), tables, None, 200
    assert not same_bits(fp8_paged_mqa_logits(*given)[:1], alone)
    assert same_bits(fp8_paged_mqa_logits(*given, batch_invariant=True)[:1], alone)


@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
def test_one_paged_kernel_serves_every_batch(monkeypatch, capability):
    seen = set()

    class Recorder:
        def __getitem__(self, grid):
            return lambda *arguments, **constexprs: seen.add(tuple(sorted(constexprs.items())))

    monkeypatch.setattr(paged_module, "paged_kernel", Recorder())
    monkeypatch.setattr(paged_module, "device_facts", lambda device: (capability, 108))
    cache = torch.zeros((1, 64, 132), dtype=torch.uint8)
    for batch, next_n in itertools.product((1, 40), (1, 2, 3, 4, 7)):
        q = torch.zeros((batch, next_n, 32, 128), dtype=torch.uint8)
        weights, lengths = torch.zeros((batch * next_n, 32)), torch.ones((batch, next_n), dtype=torch.int32)
        tables = torch.zeros((batch, 1), dtype=torch.int32)
        fp8_paged_mqa_logits(q, cache, weights, lengths, tables, None, 64, clean_logits=False, batch_invariant=True)
    assert len(seen) == 1


def test_selection_of_short_and_of_shared_rows(device, on_gpu, monkeypatch):
    """One program a row, or many where there are few rows: which positions are selected, and in which order, is one."""
    monkeypatch.setattr(topk_module, "one_program_limit", lambda rows: 4200 if rows < 9 else 2**31 - 1)
    rows, width = (ROWS, 20_000) if on_gpu else (9, 4300)
    logits = torch.randn(rows, width, generator=torch.Generator().manual_seed(1))
    logits[:, ::3] = logits[:, ::3].round()  # ties, also at the k-th place
    logits[7] = 1.0
    ends = some_lengths(width, torch.device("cpu"), rows)
    ends[7] = 5000

    def serve(part):
        return (topk_indices(logits[part].to(device), None, ends[part].to(device), 700),)

    assert_same_in_every_batch(serve, rows)


def test_query_and_keys_of_the_indexer(device):
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(ROWS, 20, 128, generator=generator).bfloat16().to(device)
    weights = torch.randn(ROWS, 20, generator=generator).to(device)
    positions, table = torch.arange(ROWS, device=device) * 3, angles(128).to(device)
    keys = torch.randn(ROWS, 128, generator=generator).bfloat16().to(device)

    def query(part):
        part = part.to(device)
        return fused_indexer_q_rope_quant(positions[part], q[part], table, weights[part], 0.1, 0.2, is_neox=False)

    def insert(part):
        cache, slots = key_pages(len(part), device)
        indexer_k_quant_and_cache(keys[part.to(device)], cache, slots)
        return (cache,)

    assert_same_in_every_batch(query)
    assert_same_in_every_batch(insert)
    assert_same_in_every_batch(lambda part: quantize_fp8_ue8m0(keys[part.to(device)]))
    assert_same_in_every_batch(lambda part: hadamard_quantize_fp8(keys[part.to(device)]))


def test_pooled_keys_of_a_prefill_and_of_decoding(device):
    """A pool has one key, whether a prefill brings all of its tokens or decoding the last of them."""
    keys, gates = random_rows(ROWS, 4, 128, seed=1).to(device), random_rows(ROWS, 4, 128, seed=2).to(device)
    ape = torch.randn(4, 128, generator=torch.Generator().manual_seed(3)).to(device)

    def prefill(part):
        cache, slots = key_pages(len(part), device)
        part = part.to(device)
        kpool_compress_and_cache(cache, keys[part], gates[part], ape, slots)
        return (cache,)

    def decode(part):
        """The first of four tokens is in the tail, the other three come as drafts."""
        cache, slots = key_pages(len(part), device)
        tail = torch.zeros((len(part), 2, 4, 128), dtype=torch.bfloat16, device=device)
        part = part.to(device)
        tail[:, 0, 0], tail[:, 1, 0] = keys[part, 0], gates[part, 0]
        blocks = torch.arange(len(part), device=device)[:, None]
        positions = torch.arange(1, 4, device=device).expand(len(part), 3)
        slots = torch.where(positions == 3, slots[:, None], -1)
        given = blocks * 4 + positions, keys[part, 1:], gates[part, 1:], ape, slots, positions
        kpool_decode_update(cache, tail, *given)
        return (cache,)

    assert_same_in_every_batch(prefill)
    assert_same_in_every_batch(decode)
    everything = torch.arange(ROWS)
    assert same_bits(decode(everything)[0], prefill(everything)[0])


@pytest.mark.parametrize(("ratio", "overlap"), [(4, True), (128, False)])
@pytest.mark.parametrize("width", [512, 128])
def test_compressed_rows_and_keys(device, ratio, overlap, width):
    """Tokens of three requests, each group's last token among others or alone."""
    lengths = ((0, 9), (3, 17), (30, 37)) if overlap else ((120, 130), (250, 256), (126, 140))
    given = on(device, requests(width, ratio, overlap, lengths))
    ends = torch.nonzero(given["slot_mapping"] >= 0).flatten().cpu()
    per_token = ("token_to_request", "positions", "state_slots", "slot_mapping")

    def serve(tokens):
        tokens = tokens.to(device)
        rows = torch.zeros((64, 4, 512), dtype=torch.bfloat16, device=device)
        cache = rows if width == 512 else poisoned_cache(64, 4).to(device)
        compress = compress_to_rows if width == 512 else compress_to_index_keys
        slots = given["slot_mapping"] * 4
        compress(
            **given | {name: given[name][tokens] for name in per_token} | {"slot_mapping": slots[tokens]},
            kv_cache=cache,
        )
        return cache[slots[tokens[torch.isin(tokens, ends.to(device))]] // 4]

    whole = serve(torch.arange(len(given["positions"])))
    assert len(ends) > 2
    for place, token in enumerate(ends):
        assert same_bits(serve(token[None])[0], whole[place])
    assert same_bits(serve(ends.flip(0)).flip(0), whole)


def test_stored_keys_rotated_heads_and_looked_up_rows(device):
    generator = torch.Generator().manual_seed(4)
    keys, heads = random_rows(ROWS, 128).to(device), random_rows(ROWS, 8, 512, seed=1).to(device)
    positions, table, weight = torch.arange(ROWS, device=device) * 2 + 1, angles(128).to(device), torch.ones(128)
    rows = codes(generator, 50, 256).view(torch.uint8).to(device)
    scales = torch.randint(110, 140, (50, 4), generator=generator).to(torch.uint8).to(device)
    ids = torch.randint(-5, 60, (ROWS, 3), generator=generator).to(device)

    def store(part):
        (cache, slots), part = key_pages(len(part), device), part.to(device)
        index_key_norm_rope_store(keys[part], positions[part], weight.to(device), 1e-6, table, cache, slots, 2)
        return (cache,)

    def look_up(part):
        out = torch.empty((len(part), 3, 256), dtype=torch.bfloat16, device=device)
        engram_lookup(rows, scales, ids[part.to(device)], out, 0)
        return (out,)

    def rotate(part):
        part = part.to(device)
        return (inverse_rope_grouped(heads[part], positions[part], table, 2).transpose(0, 1),)

    assert_same_in_every_batch(store)
    assert_same_in_every_batch(look_up)
    assert_same_in_every_batch(rotate)


@pytest.mark.parametrize("kernel", ["served", "plain"])
def test_hyper_connections_product(device, on_gpu, monkeypatch, pretend_multiprocessors, kernel):
    """Summed over the splits, as its callers do; how many they are follows the batch there."""
    if kernel == "plain":
        if not on_gpu:
            pytest.skip("the interpreter has it alone")
        monkeypatch.setattr(gluon_support, "USABLE", False)
    rows, k = (200, 16_384) if on_gpu else (ROWS, 2048)
    x, fn = random_rows(rows, k).to(device), torch.randn(24, k, generator=torch.Generator().manual_seed(1)).to(device)

    def serve(part, splits=None):
        splits = splits or 1 + len(part) % 5
        out = torch.full((splits, len(part), 24), float("nan"), device=device)
        squares = torch.full((splits, len(part)), float("nan"), device=device)
        hc_prenorm_gemm(x[part.to(device)], fn, out, squares, splits, batch_invariant=True)
        return out.sum(0), squares.sum(0)

    assert_same_in_every_batch(serve, rows)
    wanted = serve(torch.tensor([7, 32]))
    assert torch.allclose(wanted[0].double(), (x[[7, 32]].double() @ fn.double().T), rtol=1e-3, atol=1e-2)
    for size, splits in ((500, 16), (1, 1), (108, 4)):
        pretend_multiprocessors(mhc_module, size)
        assert all(map(same_bits, serve(torch.tensor([7, 32]), splits), wanted))
