"""Widths and tiles of the compressor, the same on every target: it moves bytes and hardly computes."""

from __future__ import annotations

#: Width of a compressed key-value row, and of a compressed index key.
ROW_DIM = 512
INDEX_DIM = 128

#: Most tokens that are compressed into one. DeepSeek-V4 has 4 and 128, V4.1 1 and 2.
MAX_RATIO = 1024

#: Elements of the state that a program holds at once: rows of a step times the width.
STEP_ELEMENTS = 4096

#: Warps of the program of a token.
ROW_WARPS = 8
INDEX_WARPS = 2
KEY_WARPS = 1


def rows_of_step(width: int, window: int) -> int:
    """Rows of the state that a program takes at once: a power of two, no more than the window needs.

    Args:
        width: ROW_DIM or INDEX_DIM.
        window: tokens that a boundary looks back on, itself included.
    """
    return min(STEP_ELEMENTS // width, 1 << (window - 1).bit_length())
