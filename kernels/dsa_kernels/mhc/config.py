"""Widths of mHC's pre-norm product."""

from __future__ import annotations

#: Rows of fn: hc_mult * (hc_mult + 2), 24 in every DeepSeek-V4 (four residual streams).
COLUMNS = 24

#: Columns of a tile, to which fn is padded: the most that the op takes.
TILE_COLUMNS = 32

#: k is a multiple of it: 16 bytes of x.
UNIT = 8

#: Tokens of the tiles by which splits that fill a device are counted, and columns that such a split has at the least.
SPLIT_ROWS = 64
LEAST_SPLIT = 256

#: Columns from which on a split is cut into parts where the device would be idle: adding them up costs a launch.
LONG_SPLIT = 6144
JOIN_ROWS = 4
JOIN_WARPS = 1

#: Columns of a part where the parts may not follow the batch: eight steps, so that few tokens need not wait for long.
INVARIANT_SPLIT = 1024
