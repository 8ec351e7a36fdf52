"""Tile sizes of pooled index keys, the same on every target: they move bytes and hardly compute."""

from __future__ import annotations

#: Width of the indexer's q and k rows, and of the rotation.
HEAD_DIM = 128

#: Most tokens of a pool. GLM-5.3-Flash pools 4; transformers' default is 16.
MAX_POOL = 16

#: Rows that one program rotates and quantises.
BLOCK_ROWS = 16
ROW_WARPS = 4

#: Pools that one program of prefill takes.
BLOCK_POOLS = 8
POOL_WARPS = 4

#: Warps of the program of a request in decode: one row of 128 at a time.
DECODE_WARPS = 1
