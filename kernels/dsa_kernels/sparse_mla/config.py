"""Widths and limits of the attention kernels, the same on every target; tiles by target are in dispatch.py."""

from __future__ import annotations

#: Latent width of a row, which is also the width of a value.
LATENT_DIM = 512

#: Bytes of one token of the fp8_ds_mla cache: 512 e4m3 codes, 4 fp32 scales, 64 bf16 rope values.
FP8_TOKEN_BYTES = 656

#: Most parts that a selection is cut into.
MAX_SPLITS = 64

#: Columns and parts that one program of the merge holds at a time, and its warps.
MERGE_COLUMNS = 128
MERGE_PARTS = 8
MERGE_WARPS = 1
