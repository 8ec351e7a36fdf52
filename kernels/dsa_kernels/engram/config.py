"""Tiles of the engram's lookup, the same on every target: it moves bytes."""

from __future__ import annotations

#: Rows of a step, and warps of a program.
STEP_ROWS = 16
WARPS = 4

#: Programs a multiprocessor: rows on their way at once. In the background half a program, which leaves room to others.
PROGRAMS = 2
