"""Ops that are the references, and can be broken: quick, and wrong in one way at a time."""

import pytest
import torch

from dsa_kernels import compressor, engram, fp8, indexer, kpool, mhc, sparse_mla
from dsa_kernels.selftest import GROUPS, Place, run_case


@pytest.fixture
def run(device):
    """Run the case of this group whose name begins like this, small, and give its record."""

    def find(group_name, beginning):
        group = next(group for group in GROUPS if group.name == group_name)
        (case,) = [case for case in group.cases if case.name.startswith(beginning)]
        return run_case(case, Place(device, full=False))

    return find


@pytest.fixture
def install(monkeypatch):
    """Replace public ops by others: install(sparse_mla, sparse_mla_fwd=...)."""

    def replace(module, **ops):
        for name, op in ops.items():
            assert hasattr(module, name)
            monkeypatch.setattr(module, name, op)

    return replace


@pytest.fixture
def references(install):
    """Every op of the indexer and of fp8 served by its reference, so that only what a test breaks is broken."""
    naive = {name: getattr(indexer, f"naive_{name}") for name in ("fp8_mqa_logits", "fp8_paged_mqa_logits")}

    def logits(*arguments, **options):
        return naive["fp8_mqa_logits"](*arguments, **options).float()

    def paged(q, cache, weights, lengths, tables, schedule, width):
        return naive["fp8_paged_mqa_logits"](q, cache, weights, lengths, tables, width).float()

    def select(scores, starts, ends, k, out=None):
        found = indexer.naive_topk_indices(scores, starts, ends, k)
        return found if out is None else out.copy_(found)

    def joined(q, kv, weights, starts, ends, k, budget_bytes=0, out=None):
        return select(logits(q, kv, weights, starts, ends), starts, ends, k)

    install(indexer, fp8_mqa_logits=logits, fp8_paged_mqa_logits=paged, topk_indices=select, indexer_topk=joined)

    def write(k, cache, slots, scale_fmt="ue8m0"):
        fp8.naive_indexer_k_quant_and_cache(k[: slots.shape[0]], cache, slots, ue8m0=scale_fmt == "ue8m0")

    install(
        fp8,
        decode_e4m3_tensor=lambda codes, dtype: codes.view(torch.float8_e4m3fn).float().to(dtype),
        encode_e4m3_tensor=fp8.naive_encode_e4m3,
        quantize_fp8_ue8m0=fp8.naive_quantize_fp8,
        fused_indexer_q_rope_quant=fp8.naive_fused_indexer_q,
        indexer_k_quant_and_cache=write,
    )
    install(
        compressor,
        compress_to_rows=compressor.naive_compress_to_rows,
        compress_to_index_keys=compressor.naive_compress_to_index_keys,
        index_key_norm_rope_store=compressor.naive_index_key_norm_rope_store,
        inverse_rope_grouped=compressor.naive_inverse_rope,
    )

    def product(x, fn, out, sqrsum, n_splits):
        out.zero_()
        sqrsum.zero_()
        out[0], sqrsum[0] = mhc.naive_hc_prenorm(x, fn)

    def look_up(table, scales, ids, out, first_id, first_head=0, background=False):
        engram.naive_engram_lookup(table, scales, ids, out, first_id, first_head)

    install(engram, engram_lookup=look_up)
    install(mhc, hc_prenorm_gemm=product)
    install(
        kpool,
        hadamard_quantize_fp8=kpool.naive_hadamard_quantize_fp8,
        kpool_compress_and_cache=kpool.naive_kpool_compress_and_cache,
        kpool_decode_update=kpool.naive_kpool_decode_update,
    )


def expand_rows(cache, indices, kv_format):
    """The rows that are selected, as bf16 [n, 1, 576] or so, and the indices of them there (-1 where invalid)."""
    pages = cache.shape[1] if kv_format else 1
    total = cache.shape[0] * pages
    valid = (indices >= 0) & (indices < total)
    wanted, place = torch.unique(torch.where(valid, indices, 0).long(), return_inverse=True)
    rows = cache[wanted // pages, wanted % pages] if kv_format else cache[wanted]
    if kv_format == "fp8_ds_mla":
        rows = sparse_mla.dequantize_fp8_ds_mla(rows)
    return rows, torch.where(valid, place, -1).int()


@pytest.fixture
def attend_like(install):
    """Serve sparse MLA by the reference, with a fault.

    `before(arguments)` may change q, cache, indices, attn_sink, topk_length; `after(out, max_logits, lse, arguments)`
    returns the three anew.
    """

    def serve(before=lambda given: None, after=lambda out, top, lse, given: (out, top, lse)):
        def compute(cache, kv_format, given):
            given["cache"], given["kv_format"] = cache, kv_format
            given.pop("out")
            before(given)
            rows, indices = expand_rows(given["cache"], given["indices"], kv_format)
            names = ("q", "sm_scale", "attn_sink", "topk_length")
            found = sparse_mla.naive_sparse_mla_fwd(kv=rows, indices=indices, **{name: given[name] for name in names})
            out, top, lse = after(*found, given | {"rows": rows, "places": indices})
            return out.to(given["q"].dtype), top.float(), lse.float()

        def with_cache(kv_cache, kv_format, **given):
            out, _, lse = compute(kv_cache, kv_format, given)
            return out, lse

        install(
            sparse_mla,
            sparse_mla_fwd=lambda kv, **given: compute(kv, "", given),
            sparse_mla_with_kvcache=with_cache,
        )

    return serve
