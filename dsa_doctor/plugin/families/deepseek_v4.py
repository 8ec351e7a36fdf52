"""DeepSeek-V4, V4-Flash and V4-Pro: a sliding window and compressed rows, with an indexer of its own.

vLLM's own model classes serve it. Replaced are the attention class that they pick, and the functions of the compressor,
the indexer's query and the mHC product, whose kernels need a later GPU; kernels among them that start-up would compile
are left out. The rows of the cache are plain bf16, which the rest of vLLM's path takes as it stands.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from dsa_doctor.compat.families.deepseek_v4 import ROPE, windows_by_yarn
from dsa_doctor.compat.patches import DEEP_GEMM_ISSUE, Patch
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.plugin.families.family import Family, Replacement
from dsa_doctor.plugin.families.indexer import INDEXER_MODULES, INDEXER_PATCHES, indexer_replacements
from dsa_doctor.plugin.host import vllm_root

FAMILY_ISSUE = "vllm-project/vllm #40851, #50576; in-tree proposal #56120"
_UNTIL_KERNEL = "vLLM's kernel for it runs on compute capability 8.x"
_UNTIL_CLASS = "vLLM has an attention class of DeepSeek-V4 for compute capability 8.x"

_V4 = "vllm.models.deepseek_v4"
MODEL = f"{_V4}.nvidia.model"
ATTENTION = f"{_V4}.attention"
COMPRESSOR = f"{_V4}.compressor"
ROWS = f"{_V4}.sparse_mla"
WINDOW = "vllm.v1.attention.backends.mla.sparse_swa"
QUERY = f"{_V4}.common.ops.fused_indexer_q"
KEYS = f"{_V4}.common.ops.fused_compress_quant_cache"
CUTE_ROWS = f"{_V4}.nvidia.ops.sparse_attn_compress_cutedsl"
CUTE_QUERY = f"{_V4}.nvidia.ops.fused_indexer_q_cutedsl"
OUTPUT = f"{_V4}.common.ops.fused_inv_rope_fp8_quant"
CACHE_OPS = f"{_V4}.common.ops.cache_utils"
DEEP_GEMM = "vllm.utils.deep_gemm"
MHC = "vllm.model_executor.kernels.mhc.tilelang"
MHC_KERNELS = f"{MHC}_kernels"

_MODELS = "dsa_doctor.plugin.families.deepseek_v4_models"

_COMPRESS = (
    *("state_cache", "num_actual", "token_to_req_indices", "positions", "slot_mapping", "block_table", "block_size"),
    *("state_width", "cos_sin_cache", "kv_cache", "k_cache_metadata", "pdl_kwargs", "head_dim", "rope_head_dim"),
    *("compress_ratio", "overlap", "use_fp4_cache", "rms_norm_weight", "rms_norm_eps", "quant_block", "token_stride"),
    "scale_dim",
)
_QUERY = (
    *("positions", "index_q", "index_q_cos_sin_cache", "index_weights", "index_weights_softmax_scale"),
    *("index_weights_head_scale", "use_fp4"),
)
_PRENORM = ("x", "fn", "out", "sqrsum", "hidden_size", "hc_mult", "tile_n", "n_thr", "n_splits")
_CUTE_KERNEL = "_SPARSE_ATTN_COMPRESSOR_CUTEDSL_KERNEL"
_CUTE_FUNCTION = "compress_norm_rope_store_cutedsl"
PRENORM_KERNEL = "_HC_PRENORM_GEMM_TILELANG_KERNEL"
_PRENORM_FUNCTION = "_tilelang_hc_prenorm_gemm"

WARMUPS: dict[str, tuple[str, ...]] = {
    OUTPUT: ("_FUSED_INV_ROPE_FP8_QUANT_KERNEL",),
    QUERY: ("_FUSED_INDEXER_Q_ROPE_QUANT_TRITON_KERNEL",),
    CUTE_QUERY: ("_INDEXER_Q_FP8_KERNEL",),
    KEYS: ("_FUSED_KV_COMPRESS_NORM_ROPE_INSERT_INDEXER_TRITON_KERNEL",),
    CUTE_ROWS: (
        "_SPARSE_ATTN_COMPRESS_NORM_ROPE_STORE_C4_KERNEL",
        "_SPARSE_ATTN_COMPRESS_NORM_ROPE_STORE_FULL_C4_KERNEL",
        "_SPARSE_ATTN_COMPRESS_C128_BLOCK8_KERNEL",
        "_SPARSE_ATTN_NORM_ROPE_STORE_KERNEL",
        "_SPARSE_ATTN_NORM_ROPE_STORE_FULL_KERNEL",
    ),
}
"""Kernels that are not called, and that a start from 0.30 on would compile: module to names."""


def _relied(target: str, why: str, **more: Any) -> Patch:
    return Patch(target=target, use="relied on", why=why, upstream=FAMILY_ISSUE, until=_UNTIL_CLASS, **more)


def _replaced(target: str, why: str, **more: Any) -> Patch:
    return Patch(target=target, use="replaced", why=why, upstream=FAMILY_ISSUE, until=_UNTIL_KERNEL, **more)


PATCHES: tuple[Patch, ...] = (
    *INDEXER_PATCHES,
    _replaced(
        f"{MODEL}:_select_dsv4_attn_cls",
        "picks FlashMLA's class on every GPU but 12.x, and never asks whether its backend takes the GPU",
        signatures=(("vllm_config",),),
        exact=True,
    ),
    _relied(
        f"{ATTENTION}:DeepseekV4Attention.__init__",
        "base of the attention class",
        signatures=(("self", "vllm_config", "prefix", "topk_indices_buffer", "aux_stream_list"),),
    ),
    *(
        _relied(
            f"{ATTENTION}:DeepseekV4Attention.{name}",
            "overridden by the attention class",
            signatures=(taken,),
            exact=True,
        )
        for name, taken in (
            ("get_padded_num_q_heads", ("cls", "num_heads")),
            ("forward_mqa", ("self", "q", "kv", "positions", "output")),
            ("_o_proj", ("self", "o", "positions")),
        )
    ),
    _relied(
        f"{ATTENTION}:DeepseekV4Attention",
        "stores plain bf16 rows where its class says so",
        kind="class",
        body="self._uses_fp8_ds_mla_layout()",
    ),
    _relied(
        f"{WINDOW}:DeepseekSparseSWAMetadataBuilder.build_tile_scheduler",
        "overridden: asks FlashMLA, whose library need not load, for schedules that nobody reads",
        signatures=(("self", "num_decode_tokens"),),
        exact=True,
    ),
    _relied(
        f"{WINDOW}:DeepseekSparseSWAMetadata",
        "holds the rows of each token's window, of prefilled tokens too",
        kind="class",
        body="prefill_swa_indices",
    ),
    _relied(
        f"{ROWS}:DeepseekV4SparseMLAMetadataBuilder.build",
        "base of the builder; a prefill's positions become rows of the cache after it",
        signatures=(("self", "common_prefix_len", "common_attn_metadata", "fast_build"),),
        exact=True,
    ),
    _relied(
        f"{ROWS}:DeepseekV4FlashMLAMetadata",
        "holds the positions among the compressed rows, where a layer attends to all of them",
        kind="class",
        body="c128a_prefill_topk_indices",
    ),
    _relied(
        f"{CACHE_OPS}:compute_global_topk_indices_and_lens",
        "turns selected positions into rows of the compressed cache",
        signatures=(("topk_indices", "token_to_req_indices", "block_table", "block_size", "is_valid_token"),),
    ),
    _replaced(
        f"{ATTENTION}:fused_indexer_q_rope_quant",
        "converts to e4m3 in a CuTe or Triton kernel, which 8.0 and 8.6 have no instruction for",
        origin=f"{_V4}.common.ops",
        signatures=((),),
    ),
    _relied(
        f"{QUERY}:fused_indexer_q_rope_quant",
        "the definition of what the entry above replaces",
        signatures=(_QUERY, (*_QUERY, "output_buffers"), (*_QUERY, "weights_out_dtype")),
        exact=True,
    ),
    _replaced(
        f"{COMPRESSOR}:compress_norm_rope_store_triton",
        "compresses the indexer's keys by a Triton kernel that uses fp8e4nv, which Triton below 8.9 refuses",
        origin=KEYS,
        signatures=(_COMPRESS,),
        exact=True,
    ),
    _replaced(
        f"{CUTE_ROWS}:SparseAttnCompressorCuteDSL.__call__",
        "compresses the latent rows by a CuTe kernel whose module converts to e4m3, for bf16 rows too",
        elsewhere=(f"{CUTE_ROWS}:{_CUTE_FUNCTION}",),
        signatures=(("self", *_COMPRESS), _COMPRESS),
    ),
    _relied(
        f"{COMPRESSOR}:DeepseekCompressor",
        "calls what the two entries above replace, the second by an import when it runs",
        kind="class",
        body="compress_norm_rope_store_fn(",
    ),
    _replaced(
        f"{COMPRESSOR}:_get_c128_boundary",
        "a graph captured in a step in which no group of 128 tokens ends would leave the compressor out for good",
        signatures=(("metadata",),),
        exact=True,
    ),
    Patch(
        target=f"{DEEP_GEMM}:tf32_hc_prenorm_gemm",
        use="replaced",
        why="the first layer's mHC product has no other kernel, and DeepGEMM has none for 8.x",
        upstream=DEEP_GEMM_ISSUE,
        until=_UNTIL_KERNEL,
        signatures=(("x", "fn", "out", "sqrsum", "num_split"),),
        exact=True,
    ),
    _replaced(
        f"{MHC_KERNELS}:HcPrenormGemmTileLangKernel.__call__",
        "reads its matrix anew for every token or two of a prefill",
        elsewhere=(f"{MHC}:{_PRENORM_FUNCTION}",),
        signatures=(("self", *_PRENORM), _PRENORM),
        exact=True,
    ),
    _replaced(
        f"{ATTENTION}:build_deepseek_v4_rope",
        "rotates layers of a sliding window by YaRN before 0.30, which they are not trained with",
        origin=ROPE,
        signatures=((),),
        optional=True,
    ),
    *(
        _replaced(
            f"{module}:{name}",
            "start-up would compile it, and re-raises its failure; it is not called",
            kind="global",
            optional=True,
        )
        for module, names in WARMUPS.items()
        for name in names
    ),
    *(
        _relied(target, "vLLM's model class serves on 8.x, on what is replaced above", kind="class")
        for target in (
            f"{MODEL}:DeepseekV4ForCausalLM",
            f"{_V4}.nvidia.mtp:DeepSeekV4MTP",
            f"{_V4}.nvidia.dspark:DSparkDeepseekV4ForCausalLM",
        )
    ),
)


def replacements() -> list[Replacement]:
    """Import vLLM's modules, and return what serves in place of what the model, its compressor and its mHC call."""
    from dsa_doctor.plugin import stand_ins
    from dsa_doctor.plugin.families.deepseek_v4_ops import (
        PrenormGemm,
        compress_norm_rope_store,
        fused_indexer_q_rope_quant,
        plain_in_windows,
        tf32_hc_prenorm_gemm,
        unknown_boundary,
    )

    model, attention, compressor, deep_gemm = map(importlib.import_module, (MODEL, ATTENTION, COMPRESSOR, DEEP_GEMM))
    cute, mhc, mhc_kernels = map(importlib.import_module, (CUTE_ROWS, MHC, MHC_KERNELS))
    found: list[Replacement] = [
        *indexer_replacements(),
        (model, "_select_dsv4_attn_cls", with_own_attention(model._select_dsv4_attn_cls)),
        (attention, "fused_indexer_q_rope_quant", fused_indexer_q_rope_quant),
        (compressor, "compress_norm_rope_store_triton", compress_norm_rope_store),
        (cute, _CUTE_KERNEL if hasattr(cute, _CUTE_KERNEL) else _CUTE_FUNCTION, compress_norm_rope_store),
        (deep_gemm, "tf32_hc_prenorm_gemm", tf32_hc_prenorm_gemm),
    ]
    product = PrenormGemm()
    newer = hasattr(mhc_kernels, PRENORM_KERNEL)
    found.append((mhc_kernels, PRENORM_KERNEL, product) if newer else (mhc, _PRENORM_FUNCTION, product))
    if "is_current_stream_capturing" not in inspect.getsource(compressor.DeepseekCompressor):
        found.append((compressor, "_get_c128_boundary", unknown_boundary))
    if windows_by_yarn(SourceTree(vllm_root())):
        found.append((attention, "build_deepseek_v4_rope", plain_in_windows(attention.build_deepseek_v4_rope)))
    for module, names in WARMUPS.items():
        kernels = (getattr(importlib.import_module(module), name, None) for name in names)
        found += [(one, "register_warmup", stand_ins.no_warmup) for one in kernels if one is not None]
    return found


def own_attention() -> Any:
    """Return the attention class that serves DeepSeek-V4."""
    from dsa_doctor.plugin.families.deepseek_v4_attention import TritonDeepseekV4Attention

    return TritonDeepseekV4Attention


def with_own_attention(select: Callable[[Any], Any], own: Callable[[], Any] = own_attention) -> Callable[[Any], Any]:
    """Wrap vLLM's choice of the attention class: ours, unless the server asks for another backend by name."""

    def _select_dsv4_attn_cls(vllm_config: Any) -> Any:
        from vllm.v1.attention.backends.registry import AttentionBackendEnum

        if vllm_config.attention_config.backend not in (None, AttentionBackendEnum.CUSTOM):
            return select(vllm_config)
        return own()

    return _select_dsv4_attn_cls


def refusals(vllm_config: Any) -> list[str]:
    """Return what of a server's configuration the family cannot be served with, one reason per entry."""
    found = []
    backend = str(getattr(vllm_config.kernel_config, "moe_backend", "auto"))
    if "mega_moe" in backend or "moe_ep" in backend:
        found.append(f"--moe-backend {backend}: it has no kernels for compute capability 8.x; accepted: auto, marlin")
    if getattr(vllm_config.attention_config, "indexer_sparse_logits", False):
        found.append("indexer_sparse_logits was asked for, which goes with an fp4 indexer cache; accepted: False")
    return found


FAMILY = Family(
    name="deepseek_v4",
    model_classes={
        "DeepseekV4ForCausalLM": f"{_MODELS}:DeepseekV4ForCausalLM",
        "DeepSeekV4MTPModel": f"{_MODELS}:DeepSeekV4MTP",
        "DSparkDraftModel": f"{_MODELS}:DSparkDeepseekV4ForCausalLM",
    },
    patches=PATCHES,
    modules=(*INDEXER_MODULES, MODEL, COMPRESSOR, DEEP_GEMM, MHC, MHC_KERNELS, CUTE_ROWS),
    replacements=replacements,
    head_sizes=(512,),
    owns_attention=True,
    refusals=refusals,
)
