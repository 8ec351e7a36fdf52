"""The specialisations that serving meets, for ahead-of-time compilation."""

from __future__ import annotations

from dsa_kernels import gluon_support
from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.fp8.variants import make_variant
from dsa_kernels.mhc.config import COLUMNS, JOIN_ROWS, JOIN_WARPS, TILE_COLUMNS
from dsa_kernels.mhc.dispatch import ROUTES, tile_of
from dsa_kernels.mhc.interface import kernel_of
from dsa_kernels.mhc.kernels import join_kernel


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant; the tiles are the same on every target."""
    del capability
    types = {"x_ptr": "*bf16", "fn_ptr": "*fp32", "out_ptr": "*fp32", "sqrsum_ptr": "*fp32"}
    found = []
    for route in ROUTES:
        config = tile_of(route, gluon_support.USABLE)
        constexprs = {"ROWS": config.rows, "COLUMNS": TILE_COLUMNS, "STEP": config.step, "STAGES": config.stages}
        found.append(
            make_variant(
                "hc_prenorm_gemm",
                f"{COLUMNS} columns, {config.rows} tokens",
                kernel_of(config.kernel),
                types,
                constexprs,
                config.num_warps,
                wide_copies=True,
                maxnreg=config.maxnreg,
            )
        )
    found.append(
        make_variant(
            "hc_prenorm_gemm",
            "parts of a split",
            join_kernel,
            {"part_ptr": "*fp32", "part_sum_ptr": "*fp32", "out_ptr": "*fp32", "sqrsum_ptr": "*fp32"},
            {"ROWS": JOIN_ROWS, "COLUMNS": TILE_COLUMNS},
            JOIN_WARPS,
        )
    )
    return found
