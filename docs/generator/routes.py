"""The kernels' routes: which one serves which op on which compute capability, from the tables of `dsa_kernels`."""

from dsa_kernels.indexer.dispatch import paged_routes_on, ragged_routes_on
from dsa_kernels.mhc.dispatch import ROUTES as PRENORM_ROUTES
from dsa_kernels.mhc.dispatch import tile_of as prenorm_tile_of
from dsa_kernels.sparse_mla.dispatch import MAX_HEADS, routes_on, tile_of
from dsa_kernels.targets import SHARED_MEMORY_LIMIT, VERIFIED_TARGETS, target_class
from generator.tables import code, page, table


def routes_page() -> str:
    """Return the tables with Gluon, and those without it."""
    return page(
        "Which kernel serves what",
        "Drawn from the tables that launches, warm-up, ahead-of-time builds and the self-test read"
        " (`kernels/dsa_kernels/sparse_mla/dispatch.py`, `kernels/dsa_kernels/indexer/dispatch.py`,"
        " `kernels/dsa_kernels/mhc/dispatch.py`; first match wins)."
        f" Compiled and checked for {', '.join(f'{one // 10}.{one % 10}' for one in VERIFIED_TARGETS)}; the others"
        " follow by class. [kernels.md](kernels.md) says how each kernel works.",
        "## Classes of targets",
        table(
            ("Class", "Compute capabilities", "Matrix instruction", "Shared memory of a block"),
            _classes(),
        ),
        "## Sparse MLA attention",
        "Heads are query heads of one rank. Every kernel for bf16 and fp16 takes one source of rows or two"
        " (`extra_kv_cache`), with the same tile; those for `fp8_ds_mla` take one.",
        table(("Class", "Cache", "Heads", "Kernel", "Tile: heads x rows", "Why"), _attention(gluon=True)),
        "### Where Triton has no Gluon, and under its interpreter",
        table(("Class", "Cache", "Heads", "Kernel", "Tile: heads x rows", "Why"), _attention(gluon=False)),
        "## The indexer's logits",
        "Heads are those of the indexer, padded to a power of two (GLM-5: 32, DeepSeek-V3.2: 64).",
        table(("Class", "Op", "Heads", "Kernel", "Tile: keys x columns", "Why"), _logits()),
        "## The product before mHC's norm",
        "The same on every target: `mma` is a Gluon kernel with `mma.sync`.",
        table(("Tokens of a program", "Kernel", "Step of k", "Where", "Why"), _prenorm()),
        "The selection (`topk_indices`) and the fp8 ops have one kernel each on every target.",
    )


def _classes() -> list[tuple[str, ...]]:
    what = {
        "mma": ("`mma.sync`", "163 KiB"),
        "mma-small": ("`mma.sync`", "99 KiB"),
        "wgmma": ("`wgmma`", "227 KiB"),
        "mma-roomy": ("`mma.sync` (no kernel of ours for tcgen05)", "227 KiB"),
    }
    members: dict[str, list[str]] = {}
    for capability in sorted(SHARED_MEMORY_LIMIT):
        members.setdefault(target_class(capability), []).append(f"{capability // 10}.{capability % 10}")
    return [(code(kind), ", ".join(members[kind]), *what[kind]) for kind in what]


def _representatives() -> list[tuple[str, int]]:
    first: dict[str, int] = {}
    for capability in sorted(SHARED_MEMORY_LIMIT):
        first.setdefault(target_class(capability), capability)
    return list(first.items())


def _attention(*, gluon: bool) -> list[tuple[str, ...]]:
    rows = []
    for kind, capability in _representatives():
        for route, kv_format, heads in routes_on(capability, gluon):
            tile = tile_of(route, capability, kv_format == "fp8_ds_mla")
            span = f"{heads.start} to {min(heads.stop - 1, MAX_HEADS)}"
            cache = "bf16, fp16" if kv_format == "two-byte" else code(kv_format)
            rows.append((code(kind), cache, span, code(tile.kernel), f"{tile.block_h} x {tile.block_n}", route.reason))
    return rows


def _prenorm() -> list[tuple[str, ...]]:
    rows = []
    for gluon in (True, False):
        for route in PRENORM_ROUTES:
            tile = prenorm_tile_of(route, gluon)
            where = f"from {route.least_tokens} tokens on" if route.least_tokens > 1 else "else"
            if route.fills:
                where += ", where that fills three quarters of the multiprocessors"
            kernel = code(tile.kernel) + ("" if gluon else ", without Gluon")
            rows.append((str(tile.rows), kernel, str(tile.step), where, route.reason))
    return rows


def _logits() -> list[tuple[str, ...]]:
    rows: dict[tuple[str, ...], list[int]] = {}
    for kind, capability in _representatives():
        for heads, ragged in ragged_routes_on(capability, gluon=True):
            config = ragged.config
            kernel = code(config.kernel if config.kernel == "triton" else f"ragged_{config.kernel}")
            tile = f"{config.block_n} x {config.columns}"
            rows.setdefault((code(kind), "prefill", kernel, tile, ragged.reason), []).append(heads)
        for next_n, op in ((1, "decode, 1 row"), (2, "decode, more rows")):
            for heads, paged in paged_routes_on(capability, next_n):
                tile = f"{paged.config.block_n} x {paged.config.columns}"
                rows.setdefault((code(kind), op, code("triton"), tile, paged.reason), []).append(heads)
    return [
        (kind, op, ", ".join(map(str, heads)), kernel, tile, reason)
        for (kind, op, kernel, tile, reason), heads in rows.items()
    ]
