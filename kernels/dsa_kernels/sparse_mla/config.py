"""Tile configurations by target: what is compiled, for whom."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_kernels.targets import converts_fp8, has_roomy_shared_memory, has_small_shared_memory, has_warpgroup_mma

#: Latent width of a row, which is also the width of a value.
LATENT_DIM = 512

#: Bytes of one token of the fp8_ds_mla cache: 512 e4m3 codes, 4 fp32 scales, 64 bf16 rope values.
FP8_TOKEN_BYTES = 656

#: Most parts that a selection is cut into.
MAX_SPLITS = 64

#: Columns and parts that one program of the merge holds at a time.
MERGE_COLUMNS = 128
MERGE_PARTS = 8


@dataclass(frozen=True)
class TileConfig:
    """How one program of the attention kernel is built.

    Attributes:
        block_h: heads of a program (a multiple of 16, the smallest MMA).
        block_n: gathered rows of a step.
        num_warps: warps of a program.
        num_stages: depth of the pipeline: steps whose rows are in flight or in use.
        programs_per_sm: programs that one multiprocessor should be given before a selection is left whole.
        kernel: "triton" (kernels.py), or a Gluon kernel: "wgmma" (gluon_wgmma.py), "mma" (gluon_mma.py), "few"
            (gluon_few.py).
        convert: whether Gluon kernels decode e4m3 codes by the conversion of 8.9 and later, or by integer operations.
    """

    block_h: int
    block_n: int
    num_warps: int
    num_stages: int
    programs_per_sm: int
    kernel: str = "triton"
    convert: bool = False


def tile_config(capability: int, num_heads: int, fp8: bool, gluon: bool) -> TileConfig:
    """The default configuration for a target, a head count, a cache format, and a Triton with or without Gluon.

    Up to 16 heads the op is bound by gathering: small programs, several on a multiprocessor. With more it is bound by
    the matrix units: more heads share each gathered row, as registers and shared memory allow. Where a tile of 64 heads
    would be half empty, or does not fit, several programs of 16 heads that gather the same rows are still cheaper.
    """
    small = has_small_shared_memory(capability)
    wgmma = has_warpgroup_mma(capability)
    if gluon and (small or num_heads <= (16 if wgmma and not fp8 else 32)):
        rows = 32 if fp8 and not small else 16
        programs = 2 if fp8 or small else 3
        return TileConfig(16, rows, 4, 2, programs, "few", convert=fp8 and converts_fp8(capability))
    if num_heads > 16:
        if gluon and wgmma:
            # With 32 rows there is room for two decoded tiles.
            return TileConfig(64, 32 if fp8 else 64, 8, 2, 1, "wgmma", convert=fp8)
        if gluon and capability // 10 == 8:
            return TileConfig(64, 32, 8, 2, 1, "mma")
        if fp8:
            return TileConfig(32, 32, 8, 1, 1)
        return TileConfig(32, 32, 8, 2, 1) if small else TileConfig(32, 64, 8, 2, 1)
    if fp8:
        return TileConfig(16, 32, 8, 2, 1) if small else TileConfig(16, 64, 8, 2, 1)
    if small:
        return TileConfig(16, 16, 4, 2, 2)
    return TileConfig(16, 64, 4, 2, 2) if has_roomy_shared_memory(capability) else TileConfig(16, 32, 4, 2, 2)
