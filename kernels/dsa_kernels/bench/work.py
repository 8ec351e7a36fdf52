"""What an op has to do at the least, from shapes alone: bytes, floating-point operations, and their floors."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_kernels.bench.machine import Machine

#: Width of a value row of sparse MLA, and of an indexer head.
VALUE_DIM = 512
INDEX_DIM = 128
#: Bytes of a token in the indexer's cache: 128 codes and one fp32 scale.
INDEX_TOKEN_BYTES = 132


@dataclass(frozen=True)
class Work:
    """Bytes that must cross the memory bus once, and floating-point operations (a multiply-add counts two)."""

    moved_bytes: float
    flop: float = 0.0

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flop / self.moved_bytes

    def floors(self, machine: Machine) -> tuple[float, float]:
        """Microseconds for the bytes at the measured copy rate, and for the FLOP at the measured bf16 rate."""
        return self.moved_bytes / machine.copy_bytes_per_s * 1e6, self.flop / machine.bf16_flop_per_s * 1e6


def sparse_mla_work(tokens: int, heads: int, selected: int, cache_rows: int, row_bytes: int, d_qk: int) -> Work:
    """Sparse MLA attention: gathered rows, q, output and indices.

    A cache of fewer rows than are gathered counts once as a whole: its rows are read again from L2.

    Args:
        tokens: query tokens.
        heads: heads of this rank.
        selected: rows that each token selects.
        cache_rows: rows of the cache.
        row_bytes: bytes of a row: 2 * d_qk, or 656 for fp8_ds_mla.
        d_qk: 576 or 512.
    """
    gathered = min(tokens * selected, cache_rows) * row_bytes
    moved = gathered + tokens * heads * (d_qk + VALUE_DIM) * 2 + tokens * selected * 4
    return Work(moved, 2.0 * tokens * heads * selected * (d_qk + VALUE_DIM))


def ragged_logits_work(rows: int, keys: int, pairs: float, heads: int) -> Work:
    """Indexer logits over a flat key tensor; `pairs` counts the (row, key) pairs inside the rows' bounds."""
    moved = pairs * 4 + rows * heads * (INDEX_DIM + 4) + keys * INDEX_TOKEN_BYTES
    return Work(moved, 2.0 * pairs * heads * INDEX_DIM)


def paged_logits_work(batch: int, next_n: int, context: int, heads: int) -> Work:
    """Indexer logits of a decode batch over the paged cache, every request at the same context."""
    rows = batch * next_n
    moved = batch * context * INDEX_TOKEN_BYTES + rows * context * 4 + rows * heads * (INDEX_DIM + 4)
    return Work(moved, 2.0 * rows * context * heads * INDEX_DIM)


def topk_work(rows: int, width: int, topk: int) -> Work:
    """Selection: each logit read once, each index written once; its comparisons are not counted."""
    return Work(float(rows) * (width + topk) * 4)


def chunked_work(rows: int, keys: int, pairs: float, heads: int, topk: int) -> Work:
    """Logits and selection in one: the logits themselves need never reach memory."""
    moved = rows * heads * (INDEX_DIM + 4) + keys * INDEX_TOKEN_BYTES + rows * topk * 4
    return Work(float(moved), 2.0 * pairs * heads * INDEX_DIM)


def q_quant_work(tokens: int, heads: int, rope: int) -> Work:
    """The indexer's fused q path: bf16 q to codes, fp32 weights in and out, cosines and sines in fp32."""
    return Work(float(tokens * heads * (INDEX_DIM * 3 + 8) + tokens * (rope * 4 + 8)))


def k_cache_work(tokens: int) -> Work:
    """The indexer's k-cache write: bf16 keys and int64 slots to 132 bytes a token."""
    return Work(float(tokens * (INDEX_DIM * 2 + 8 + INDEX_TOKEN_BYTES)))
