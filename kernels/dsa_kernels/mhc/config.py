"""Widths of mHC's pre-norm product."""

from __future__ import annotations

#: Rows of fn: hc_mult * (hc_mult + 2), 24 in every DeepSeek-V4 (four residual streams).
COLUMNS = 24

#: Columns of a tile, to which fn is padded: the most that the op takes.
TILE_COLUMNS = 32

#: k is a multiple of it: 16 bytes of x.
UNIT = 8
