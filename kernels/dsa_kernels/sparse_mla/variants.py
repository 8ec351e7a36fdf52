"""The specialisations that serving meets on a target, for ahead-of-time compilation."""

from __future__ import annotations

from dsa_kernels import gluon_support
from dsa_kernels.aot.variants import KernelVariant
from dsa_kernels.sparse_mla.config import LATENT_DIM, MAX_SPLITS, MERGE_COLUMNS, MERGE_PARTS, MERGE_WARPS
from dsa_kernels.sparse_mla.dispatch import TileConfig, routes_on, tile_of
from dsa_kernels.sparse_mla.kernels import merge_kernel
from dsa_kernels.sparse_mla.launch import attention_kernel

_FP32_POINTERS = ("sink_ptr", "max_logits_ptr", "lse_ptr", "partial_ptr", "partial_max_ptr", "partial_sum_ptr")
_ROW_POINTERS = ("q_ptr", "latent_ptr", "scale_ptr", "rope_ptr", "out_ptr")
_ALIGNED = frozenset((*_ROW_POINTERS, "partial_ptr", "partial_max_ptr", "partial_sum_ptr"))


#: Rows of a page of both of DeepSeek-V4's caches, in layers of ratio 4 and of ratio 128.
TWO_SOURCES = ((64, 64), (64, 2))


def attend_variant(
    config: TileConfig,
    dtype: str = "bf16",
    rope: int = 64,
    fp8: bool = False,
    page_size: int = 0,
    extra_page_size: int = 0,
) -> KernelVariant:
    """The attention kernel for a configuration, as a launch would specialise it; two page sizes are two sources."""
    row = "i32" if fp8 else dtype
    kernel, keywords = attention_kernel(config, fp8)
    constexprs: dict[str, object] = {
        "LATENT": LATENT_DIM,
        "ROPE": rope,
        "PAGE_SIZE": page_size,
        "EXTRA_PAGE_SIZE": extra_page_size,
        "BLOCK_H": config.block_h,
        "BLOCK_N": config.block_n,
        **{name: value for name, value in keywords.items() if name in kernel.arg_names},
    }
    if not extra_page_size:
        constexprs |= {name: None for name in kernel.arg_names if name.startswith(("extra_", "has_extra_"))}
    pointers = {
        "extra_ptr": f"*{dtype}",
        "extra_indices_ptr": "*i32",
        "extra_length_ptr": "*i32",
        "q_ptr": f"*{dtype}",
        "latent_ptr": f"*{row}",
        "scale_ptr": "*fp32" if fp8 else f"*{row}",
        "rope_ptr": "*bf16" if fp8 else f"*{row}",
        "indices_ptr": "*i32",
        "length_ptr": "*i32",
        "out_ptr": f"*{dtype}",
        **dict.fromkeys(_FP32_POINTERS, "*fp32"),
        "scale_log2": "fp32",
    }
    signature = {name: "constexpr" if name in constexprs else pointers.get(name, "i32") for name in kernel.arg_names}
    layout = f"{'fp8_ds_mla' if fp8 else dtype} {LATENT_DIM}+{rope}"
    pages = f", pages of {page_size}" if page_size else ""
    if extra_page_size:
        pages += f" and of {extra_page_size}"
    return KernelVariant(
        op="sparse_mla_with_kvcache" if fp8 or page_size else "sparse_mla_fwd",
        name=f"{layout}, q {dtype}, {config.block_h} heads x {config.block_n} rows{pages}",
        kernel=kernel,
        signature=signature,
        constexprs=constexprs,
        divisible_by_16=_ALIGNED | ({"extra_ptr"} if extra_page_size else set()),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        wide_copies=True,
    )


def merge_variant(dtype: str = "bf16") -> KernelVariant:
    """The kernel that merges the parts of a split selection."""
    constexprs: dict[str, object] = {
        "LATENT": LATENT_DIM,
        "BLOCK_D": MERGE_COLUMNS,
        "BLOCK_S": MERGE_PARTS,
        "MAX_SPLITS": MAX_SPLITS,
    }
    pointers = {**dict.fromkeys(_FP32_POINTERS, "*fp32"), "out_ptr": f"*{dtype}"}
    return KernelVariant(
        op="sparse_mla_fwd",
        name=f"merge of parts, {dtype}",
        kernel=merge_kernel,
        signature={
            name: "constexpr" if name in constexprs else pointers.get(name, "i32") for name in merge_kernel.arg_names
        },
        constexprs=constexprs,
        divisible_by_16=frozenset(("partial_ptr", "partial_max_ptr", "partial_sum_ptr", "out_ptr")),
        num_warps=MERGE_WARPS,
        num_stages=2,
        wide_copies=False,
    )


def variants(capability: int) -> list[KernelVariant]:
    """Every default variant on `capability` (80 means 8.0)."""
    found = {}
    for route, kv_format, _ in routes_on(capability, gluon_support.USABLE):
        fp8 = kv_format == "fp8_ds_mla"
        tile = tile_of(route, capability, fp8)
        ropes = (64,) if fp8 else (64, 0)
        made = [attend_variant(tile, dtype, rope, fp8) for dtype in ("bf16", "fp16") for rope in ropes]
        made.append(attend_variant(tile, fp8=fp8, page_size=64))
        if not fp8:
            made += [attend_variant(tile, rope=0, page_size=page, extra_page_size=of) for page, of in TWO_SOURCES]
        for variant in made:
            found[variant.op, variant.name] = variant
    for dtype in ("bf16", "fp16"):
        merge = merge_variant(dtype)
        found[merge.op, merge.name] = merge
    return list(found.values())
