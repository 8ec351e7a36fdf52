"""Tile sizes of the fp8 ops, the same on every target: they move bytes and hardly compute."""

from __future__ import annotations

#: Width of the indexer's q and k rows.
HEAD_DIM = 128

#: Elements of one program of a conversion.
CONVERT_BLOCK = 1024
CONVERT_WARPS = 4

#: Rows (groups, heads, tokens) that one program quantises.
GROUP_BLOCK = 16
GROUP_WARPS = 4
