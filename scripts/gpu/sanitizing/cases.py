"""A small case of every public op, together launching every kernel of the package.

Inputs are made on the CPU and copied: under compute-sanitizer each kernel that torch would launch costs time, and
initcheck sees what a copy writes. Nothing is compared here (the tests and the self-test do that); what is looked for is
access outside an allocation, to memory never written, without synchronisation.
"""

from collections.abc import Callable
from functools import partial
from unittest import mock

import torch

import dsa_kernels as dsa
from dsa_kernels import gluon_support
from dsa_kernels.selftest import compressor_cases
from dsa_kernels.selftest.case import Place

Case = Callable[[torch.device], None]


def sparse_mla(
    device: torch.device, tokens: int, heads: int, topk: int, dtype: torch.dtype = torch.bfloat16, width: int = 576
) -> None:
    """Flat rows; invalid entries, lengths and a sink among the arguments; few tokens are split, many are not."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(tokens, heads, width, generator=generator).to(dtype)
    kv = torch.randn(300, 1, width, generator=generator).to(dtype)
    indices = torch.randint(-2, 303, (tokens, 1, topk), generator=generator, dtype=torch.int32)
    lengths = torch.randint(0, topk + 1, (tokens,), generator=generator, dtype=torch.int32)
    moved = [one.to(device) for one in (q, kv, indices, torch.zeros(heads), lengths)]
    dsa.sparse_mla_fwd(*moved[:3], 0.05)
    dsa.sparse_mla_fwd(*moved[:3], 0.05, attn_sink=moved[3], topk_length=moved[4])


def sparse_mla_paged(device: torch.device, tokens: int, heads: int, kv_format: str, gap: int) -> None:
    """Pages of 64 rows, dense or `gap` pages apart, the last one at the end of its allocation."""
    generator = torch.Generator().manual_seed(1)
    pages, topk = 5, 200
    if kv_format == "fp8_ds_mla":
        cache = torch.randint(0, 120, (pages * (gap + 1), 64, 1, 656), generator=generator).to(torch.uint8)
    else:
        cache = torch.randn(pages * (gap + 1), 64, 1, 576, generator=generator).to(torch.bfloat16)
    q = torch.randn(tokens, heads, 576, generator=generator).to(torch.bfloat16)
    indices = torch.randint(-2, pages * 64 + 3, (tokens, 1, topk), generator=generator, dtype=torch.int32)
    indices[0, 0, 0] = pages * 64 - 1
    view = cache.to(device)[gap :: gap + 1]
    dsa.sparse_mla_with_kvcache(q.to(device), view, indices.to(device), 0.05, kv_format=kv_format)


def sparse_mla_two(device: torch.device, tokens: int, heads: int, page_size: int) -> None:
    """Two caches, the last page of each at the end of its allocation; invalid entries, lengths and a sink."""
    generator = torch.Generator().manual_seed(6)
    moved = {"q": torch.randn(tokens, heads, 512, generator=generator).to(torch.bfloat16)}
    for prefix, rows, width in (("", 64, 70), ("extra_", page_size, 150)):
        pages = -(-300 // rows)
        moved[f"{prefix}kv_cache"] = torch.randn(2 * pages, rows, 1, 512, generator=generator).to(torch.bfloat16)
        indices = torch.randint(-2, pages * rows + 3, (tokens, 1, width), generator=generator, dtype=torch.int32)
        indices[0, 0, 0] = pages * rows - 1
        moved[f"{prefix}indices"] = indices
        lengths = torch.randint(1, width + 1, (tokens,), generator=generator, dtype=torch.int32)
        moved[f"{prefix}topk_length"] = lengths
    given = {name: tensor.to(device) for name, tensor in moved.items()}
    given |= {name: given[name][1::2] for name in ("kv_cache", "extra_kv_cache")}
    dsa.sparse_mla_with_kvcache(**given, sm_scale=0.05, attn_sink=torch.zeros(heads).to(device))


def ragged_logits(device: torch.device, heads: int, rows: int, keys: int) -> None:
    """Bounds inside and outside the keys, full width and compressed, cleaned and not."""
    q, kv, weights, starts, ends = ragged_inputs(device, heads, rows, keys)
    dsa.fp8_mqa_logits(q, kv, weights, starts, ends)
    dsa.fp8_mqa_logits(q, kv, weights, starts, ends, max_seqlen_k=keys // 2)
    dsa.fp8_mqa_logits(q, kv, weights, starts, ends, clean_logits=False)


def chunked(device: torch.device, heads: int, rows: int, keys: int) -> None:
    """Logits and selection in several chunks."""
    q, kv, weights, starts, ends = ragged_inputs(device, heads, rows, keys)
    dsa.indexer_topk(q, kv, weights, starts, ends, k=64, budget_bytes=rows * keys)


def without_gluon(device: torch.device, case: Case) -> None:
    """A case by the kernels in plain Triton, which serve where Triton has no Gluon."""
    with mock.patch.object(gluon_support, "USABLE", False):
        case(device)


def ragged_inputs(
    device: torch.device, heads: int, rows: int, keys: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, (k, scale), weights, starts and ends."""
    generator = torch.Generator().manual_seed(2)
    q = torch.randint(0, 120, (rows, heads, 128), generator=generator).to(torch.uint8).to(device)
    k = torch.randint(0, 120, (keys, 128), generator=generator).to(torch.uint8).to(device)
    scale, weights = torch.rand(keys, generator=generator), torch.randn(rows, heads, generator=generator)
    starts = torch.randint(-3, keys, (rows,), generator=generator, dtype=torch.int32)
    ends = starts + torch.randint(0, keys, (rows,), generator=generator, dtype=torch.int32)
    return q, (k, scale.to(device)), weights.to(device), starts.to(device), ends.to(device)


def paged_logits(device: torch.device, heads: int, next_n: int, per_row: bool) -> None:
    """Contexts that end inside a page, block tables that end before the widest context, entries that are no page."""
    generator = torch.Generator().manual_seed(3)
    batch, pages, width = 3, 12, 4
    cache = torch.randint(0, 120, (pages, 64, 1, 132), generator=generator).to(torch.uint8)
    q = torch.randint(0, 120, (batch, next_n, heads, 128), generator=generator).to(torch.uint8)
    weights = torch.randn(batch * next_n, heads, generator=generator)
    lengths = torch.tensor([next_n, 201, 64 * width + 9], dtype=torch.int32)
    if per_row:
        lengths = lengths[:, None].expand(-1, next_n).contiguous()
    tables = torch.randperm(pages, generator=generator).view(batch, width).int()
    tables[1, 3] = 2**31 - 1
    moved = [one.to(device) for one in (q, cache, weights, lengths, tables)]
    for clean in (True, False):
        dsa.fp8_paged_mqa_logits(*moved, max_context_len=64 * width + 37, clean_logits=clean)


def selection(device: torch.device, width: int, k: int, values: str, has_starts: bool) -> None:
    """Rows that are selected from as they are, rows thinned out by one program or many, rows that stay long."""
    generator = torch.Generator().manual_seed(4)
    rows = 3
    logits = torch.randn(rows, width, generator=generator)
    if values == "equal":
        logits = torch.ones(rows, width)
    elif values == "narrow":
        logits = 1 + logits * 1e-6
    logits[0, width // 2 :] = float("-inf")
    starts = torch.tensor([0, 5, 17], dtype=torch.int32).to(device) if has_starts else None
    ends = torch.tensor([width, width - 3, width + 9], dtype=torch.int32).to(device)
    dsa.topk_indices(logits.to(device), starts, ends, k)


def conversions(device: torch.device, dtype: torch.dtype) -> None:
    """Encoding and decoding with a ragged tail, and group quantisation."""
    values = torch.randn(37, 128, generator=torch.Generator().manual_seed(5)).to(dtype).to(device)
    codes = dsa.encode_e4m3_tensor(values.view(-1)[:-5].clone())
    dsa.decode_e4m3_tensor(codes, dtype)
    dsa.quantize_fp8_ue8m0(values)


def indexer_q(device: torch.device, heads: int, is_neox: bool) -> None:
    """The fused q path."""
    generator = torch.Generator().manual_seed(6)
    q = torch.randn(5, heads, 128, generator=generator).to(torch.bfloat16).to(device)
    angles = torch.randn(50, 64, generator=generator).to(torch.bfloat16).to(device)
    positions = torch.tensor([0, 49, 3, 3, 7]).to(device)
    weights = torch.randn(5, heads, generator=generator).to(torch.bfloat16).to(device)
    dsa.fused_indexer_q_rope_quant(positions, q, angles, weights, 0.1, 0.2, is_neox)


def indexer_k(device: torch.device, scale_fmt: str) -> None:
    """The write to the indexer's cache, its last slot and skipped tokens among them."""
    k = torch.randn(9, 128, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16).to(device)
    cache = torch.zeros((4, 64, 132), dtype=torch.uint8).to(device)
    slots = torch.tensor([0, 255, -1, 64, 63, -1, 130, 7]).to(device)
    dsa.indexer_k_quant_and_cache(k, cache, slots, scale_fmt=scale_fmt)


def pooled_keys(device: torch.device) -> None:
    """Rotation of a ragged tile; pools of prefill, masked and skipped; steps of decoding with a padded token."""
    generator = torch.Generator().manual_seed(8)
    key, gate = (torch.randn(23, 4, 128, generator=generator).to(torch.bfloat16).to(device) for _ in range(2))
    ape = torch.randn(4, 128, generator=generator).to(device)
    cache = torch.zeros((4, 64, 132), dtype=torch.uint8).to(device)[::2]
    dsa.hadamard_quantize_fp8(key.view(-1, 128)[:-5])
    slots = torch.arange(127, 104, -1)
    slots[::5] = -1
    dsa.kpool_compress_and_cache(cache, key, gate, ape, slots.to(device), (torch.arange(23) % 3 != 0).to(device))
    tail = torch.randn(5, 2, 8, 128, generator=generator).to(torch.bfloat16).to(device)
    for first in (2, 5):
        positions = torch.arange(first, first + 3).repeat(5, 1)
        tails = torch.arange(5)[:, None] * 8 + positions % 8
        ends = torch.where(positions % 4 == 3, torch.arange(5)[:, None] * 4 + positions // 4, -1)
        for integers in (positions, tails, ends):
            integers[1, -1] = -1
        moved = [one.int().to(device) for one in (tails, ends, positions)]
        dsa.kpool_decode_update(cache, tail, moved[0], key[:5, :3], gate[:5, :3], ape, moved[1], moved[2])


def compressed_keys(device: torch.device, ratio: int, overlap: bool) -> None:
    """Groups of several requests in shuffled blocks of states; padded tokens; pages that lie apart."""
    for width in (512, 128) if overlap else (512,):
        given, groups = compressor_cases.requests(Place(torch.device("cpu"), full=False), width, ratio, overlap)
        moved = {name: one.to(device) if isinstance(one, torch.Tensor) else one for name, one in given.items()}
        pages = -(-groups // 64)
        if width == 512:
            rows = torch.zeros((2 * pages, 64, 512), dtype=torch.bfloat16).to(device)
            dsa.compress_to_rows(kv_cache=rows[::2], **moved)
        else:
            keys = torch.zeros((2 * pages, 64, 132), dtype=torch.uint8).to(device)
            dsa.compress_to_index_keys(kv_cache=keys[::2], **moved)


def output_rope(device: torch.device) -> None:
    """Heads of a wider tensor, rotated back and grouped."""
    generator = torch.Generator().manual_seed(9)
    o = torch.randn(5, 11, 512, generator=generator).to(torch.bfloat16).to(device)[:, :8]
    positions = torch.tensor([0, 49, 3, 3, 7]).to(device)
    angles = torch.randn(50, 64, generator=generator).to(device)
    dsa.inverse_rope_grouped(o, positions, angles, 4)


def finished_keys(device: torch.device) -> None:
    """Index keys that need no pooling, of groups of two; pages that lie apart."""
    generator = torch.Generator().manual_seed(11)
    k = torch.randn(11, 128, generator=generator).to(torch.bfloat16).to(device)
    positions = torch.arange(11).to(device)
    slots = torch.where(positions % 2 == 1, 127 - positions, -1)
    cache = torch.zeros((4, 64, 132), dtype=torch.uint8).to(device)[::2]
    weight = torch.ones(128, device=device)
    angles = torch.randn(11, 64, generator=generator).to(device)
    dsa.index_key_norm_rope_store(k, positions, weight, 1e-6, angles, cache, slots[:9], 2)


def engram(device: torch.device) -> None:
    """Rows of a table, its last among them, ids of others, and a padded head."""
    generator = torch.Generator().manual_seed(12)
    table = torch.randint(0, 256, (50, 256), dtype=torch.uint8, generator=generator).to(device)
    scales = torch.randint(100, 140, (50, 8), dtype=torch.uint8, generator=generator).to(device)
    ids = torch.tensor([[1000, 1049, -1], [999, 1050, 1001]]).repeat(9, 1).to(device)
    dsa.engram_lookup(table, scales, ids, torch.empty((18, 3, 256), dtype=torch.bfloat16, device=device), 1000, 1)


def prenorm(device: torch.device, tokens: int, k: int, splits: int) -> None:
    """The product before mHC's norm, with ragged tiles, splits without a step, and a long one that is cut."""
    generator = torch.Generator().manual_seed(10)
    x = torch.randn(tokens, k, generator=generator).to(torch.bfloat16).to(device)
    fn = torch.randn(24, k, generator=generator).to(device)
    out = torch.empty((splits, tokens, 24), device=device)
    dsa.hc_prenorm_gemm(x, fn, out, torch.empty((splits, tokens), device=device), splits)


def all_cases() -> dict[str, Case]:
    """Every case by name."""
    found: dict[str, Case] = {}
    for heads in (16, 128):
        for tokens in (1, 3, 300):
            found[f"sparse MLA bf16, {heads} heads, {tokens} tokens"] = partial(
                sparse_mla, tokens=tokens, heads=heads, topk=200 if tokens < 300 else 40
            )
        for kv_format, gap in (("bf16", 1), ("fp8_ds_mla", 0), ("fp8_ds_mla", 1)):
            found[f"sparse MLA pages {kv_format}, {heads} heads, gap {gap}"] = partial(
                sparse_mla_paged, tokens=2, heads=heads, kv_format=kv_format, gap=gap
            )
    found["sparse MLA fp16 without rope, 7 heads"] = partial(
        sparse_mla, tokens=2, heads=7, topk=130, dtype=torch.float16, width=512
    )
    for heads, tokens, page_size in ((8, 2, 64), (8, 300, 2), (64, 2, 2), (128, 3, 64)):
        found[f"sparse MLA over two caches, {heads} heads, {tokens} tokens"] = partial(
            sparse_mla_two, tokens=tokens, heads=heads, page_size=page_size
        )
    for heads, rows, keys in ((32, 70, 301), (64, 5, 130), (3, 9, 65), (128, 3, 200)):
        found[f"ragged logits, {heads} heads"] = partial(ragged_logits, heads=heads, rows=rows, keys=keys)
    plain = [f"sparse MLA bf16, {heads} heads, 3 tokens" for heads in (16, 128)]
    plain += [f"sparse MLA pages fp8_ds_mla, {heads} heads, gap 1" for heads in (16, 128)]
    plain += ["sparse MLA over two caches, 8 heads, 2 tokens", "sparse MLA over two caches, 64 heads, 2 tokens"]
    for name in [*plain, "ragged logits, 32 heads"]:
        found[f"{name}, without Gluon"] = partial(without_gluon, case=found[name])
    found["indexer top-k in chunks, short rows"] = partial(chunked, heads=32, rows=9, keys=300)
    found["indexer top-k in chunks, thinned rows"] = partial(chunked, heads=32, rows=3, keys=4500)
    for heads in (32, 64):
        for next_n in (1, 2, 4):
            found[f"paged logits, {heads} heads, next_n {next_n}"] = partial(
                paged_logits, heads=heads, next_n=next_n, per_row=next_n == 2
            )
    for width, k, values in (
        (300, 64, "random"),
        (9001, 2048, "random"),
        (9001, 64, "narrow"),
        (9001, 2048, "equal"),
        (131_201, 2048, "random"),
    ):
        for has_starts in (False, True):
            found[f"top {k} of {width} {values}{', row starts' if has_starts else ''}"] = partial(
                selection, width=width, k=k, values=values, has_starts=has_starts
            )
    for dtype in (torch.bfloat16, torch.float32):
        found[f"fp8 conversions, {dtype}"] = partial(conversions, dtype=dtype)
    for is_neox in (False, True):
        found[f"indexer q, {'halves' if is_neox else 'neighbours'}"] = partial(indexer_q, heads=32, is_neox=is_neox)
    for scale_fmt in ("ue8m0", ""):
        found[f"indexer k, scale {scale_fmt or 'plain'}"] = partial(indexer_k, scale_fmt=scale_fmt)
    found["pooled index keys"] = pooled_keys
    for ratio, overlap in ((4, True), (128, False)):
        found[f"compressed keys, groups of {ratio}"] = partial(compressed_keys, ratio=ratio, overlap=overlap)
    found["the output's rope"] = output_rope
    found["index keys without pooling"] = finished_keys
    found["the engram's lookup"] = engram
    for tokens, k, splits in ((1, 512, 3), (2, 8192, 1), (20, 512, 200), (130, 320, 200)):
        name = f"mHC's product, {tokens} tokens"
        found[name] = partial(prenorm, tokens=tokens, k=k, splits=splits)
        found[f"{name}, without Gluon"] = partial(without_gluon, case=found[name])
    return found
