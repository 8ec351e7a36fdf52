"""The routes of a target in words, for people who look at a wrong result."""

from __future__ import annotations

from dsa_kernels.indexer.dispatch import paged_routes_on, ragged_routes_on
from dsa_kernels.mhc.dispatch import ROUTES as PRENORM_ROUTES
from dsa_kernels.mhc.dispatch import tile_of as prenorm_tile_of
from dsa_kernels.sparse_mla.dispatch import routes_on, tile_of


def route_lines(capability: int, gluon: bool) -> list[str]:
    """One line an op and cache format: which kernel serves which head counts, with its tile.

    Args:
        capability: of the target, times ten.
        gluon: whether Gluon kernels can be compiled (`gluon_support.USABLE`).
    """
    attention: dict[str, list[str]] = {}
    for route, kv_format, heads in routes_on(capability, gluon):
        tile = tile_of(route, capability, kv_format == "fp8_ds_mla")
        span = f"{heads.start} to {heads.stop - 1} heads {tile.kernel} ({tile.block_h} x {tile.block_n})"
        attention.setdefault(kv_format, []).append(span)
    lines = [f"sparse MLA, {kv_format} rows: {', '.join(spans)}" for kv_format, spans in attention.items()]
    ragged = [
        f"{heads} heads {route.config.kernel} ({route.config.block_n} x {route.config.columns})"
        for heads, route in ragged_routes_on(capability, gluon)
    ]
    lines.append(f"ragged logits: {', '.join(ragged)}")
    paged = [
        f"{heads} heads triton ({route.config.block_n} x {route.config.columns})"
        for heads, route in paged_routes_on(capability, next_n=1)
    ]
    tiles = [prenorm_tile_of(route, gluon) for route in PRENORM_ROUTES]
    prenorm = [f"{tile.kernel} ({tile.rows} tokens x {tile.step})" for tile in tiles]
    return [*lines, f"paged logits: {', '.join(paged)}", f"mHC product: {', '.join(prenorm)}"]
