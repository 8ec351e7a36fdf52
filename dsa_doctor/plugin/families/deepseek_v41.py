"""DeepSeek-V4.1: as V4, with caches and selections shared between layers, index keys of its own and an engram.

vLLM's own model classes serve it, from 0.30 on. Replaced are the attention class that they pick, the functions of the
indexer's query and keys, the lookup of the engram and the mHC product. The compressor needs nothing: with plain bf16
rows its kernels run on compute capability 8.x.
"""

import importlib
from typing import Any

from dsa_doctor.compat.patches import Patch
from dsa_doctor.plugin.families.deepseek_v4 import (
    CACHE_OPS,
    MHC,
    MHC_KERNELS,
    PRENORM_KERNEL,
    QUERY,
    WINDOW,
    with_own_attention,
)
from dsa_doctor.plugin.families.deepseek_v4 import PATCHES as V4_PATCHES
from dsa_doctor.plugin.families.deepseek_v4 import refusals as v4_refusals
from dsa_doctor.plugin.families.family import Family, Replacement
from dsa_doctor.plugin.families.indexer import INDEXER_MODULES, INDEXER_PATCHES, indexer_replacements

FAMILY_ISSUE = "vllm-project/vllm #57144; in-tree proposal #56120"
_UNTIL_KERNEL = "vLLM's kernel for it runs on compute capability 8.x"
_UNTIL_CLASS = "vLLM has an attention class of DeepSeek-V4.1 for compute capability 8.x"

_V41 = "vllm.models.deepseek_v41"
MODEL = f"{_V41}.nvidia.model"
ATTENTION = f"{_V41}.attention"
ROWS = f"{_V41}.sparse_mla"
COMPRESSOR = f"{_V41}.compressor"
KEYS = f"{_V41}.common.ops.indexer_k_store"
ENGRAM = f"{_V41}.common.engram"

_MODELS = "dsa_doctor.plugin.families.deepseek_v41_models"
_KEYS = (
    *("k_pre", "positions", "cos_sin_cache", "rms_norm_weight", "rms_norm_eps", "k_cache", "kv_slot_mapping"),
    *("compress_ratio", "use_fp4_cache"),
)

_OF_V4 = {patch.target: patch for patch in V4_PATCHES}
_SHARED = (
    f"{QUERY}:fused_indexer_q_rope_quant",
    f"{CACHE_OPS}:compute_global_topk_indices_and_lens",
    f"{WINDOW}:DeepseekSparseSWAMetadataBuilder.build_tile_scheduler",
    f"{WINDOW}:DeepseekSparseSWAMetadata",
    f"{MHC_KERNELS}:HcPrenormGemmTileLangKernel.__call__",
)
"""Entries of DeepSeek-V4 that hold here too."""


def _relied(target: str, why: str, **more: Any) -> Patch:
    return Patch(target=target, use="relied on", why=why, upstream=FAMILY_ISSUE, until=_UNTIL_CLASS, **more)


def _replaced(target: str, why: str, **more: Any) -> Patch:
    return Patch(target=target, use="replaced", why=why, upstream=FAMILY_ISSUE, until=_UNTIL_KERNEL, **more)


PATCHES: tuple[Patch, ...] = (
    *INDEXER_PATCHES,
    *(_OF_V4[target] for target in _SHARED),
    _replaced(
        f"{MODEL}:_select_dsv4_attn_cls",
        "picks FlashMLA's class on 8.x, and never asks whether its backend takes the GPU",
        signatures=(("vllm_config",),),
        exact=True,
    ),
    _relied(
        f"{ATTENTION}:DeepseekV4Attention.__init__",
        "base of the attention class",
        signatures=(
            ("self", "vllm_config", "prefix", "topk_indices_buffer", "aux_stream_list", "candidate_block_buffer"),
        ),
    ),
    *(
        _relied(
            f"{ATTENTION}:DeepseekV4Attention.{name}",
            "overridden by the attention class",
            signatures=taken,
            exact=True,
        )
        for name, taken in (
            ("get_padded_num_q_heads", (("cls", "num_heads"),)),
            ("forward_mqa", (("self", "q", "kv", "positions", "output"),)),
            ("_o_proj", (("self", "o", "positions"), ("self", "attn_out", "positions"))),
        )
    ),
    _relied(
        f"{ATTENTION}:DeepseekV4Attention._compressed_kv_cache",
        "returns the compressed rows of the layer that owns them",
        signatures=(("self",),),
        exact=True,
    ),
    _relied(
        f"{ATTENTION}:DeepseekV4Attention",
        "stores plain bf16 rows where its class says so, and names the layer that owns its compressed rows",
        kind="class",
        body=("self._uses_fp8_ds_mla_layout()", "self.compressed_cache_prefix"),
    ),
    _relied(
        f"{ATTENTION}:DeepseekV4Attention._wo_b_proj",
        "projects the grouped output, and adds it up over the ranks where vLLM asks the layer to",
        signatures=(("self", "z"),),
        exact=True,
        optional=True,
    ),
    _relied(
        f"{ROWS}:DeepseekV41SparseSWAMetadataBuilder.__init__",
        "base of the builder of the sliding window",
        signatures=(("self",), ("self", "*args", "**kwargs")),
    ),
    _relied(
        f"{ROWS}:DeepseekV4SparseMLABackend",
        "base of the backend of the compressed rows",
        kind="class",
        body="DeepseekV4SparseMLAMetadataBuilder",
    ),
    _relied(
        f"{ROWS}:DeepseekV4SparseMLAMetadataBuilder.build",
        "tells the pages of the compressed rows",
        signatures=(("self", "common_prefix_len", "common_attn_metadata", "fast_build"),),
        exact=True,
    ),
    _relied(
        f"{COMPRESSOR}:DeepseekCompressor.insert_cache",
        "stores compressed rows as the cache holds them; for bf16 its kernel converts to no fp8",
        signatures=(("self", "latent", "positions", "rotary_emb"),),
        exact=True,
    ),
    _replaced(
        f"{ATTENTION}:fused_indexer_q_rope_quant",
        "converts to e4m3 in a CuTe or Triton kernel, which 8.0 and 8.6 have no instruction for",
        origin=f"{_V41}.common.ops",
        signatures=((),),
    ),
    _replaced(
        f"{ATTENTION}:indexer_k_norm_rope_store",
        "stores the indexer's keys by a Triton kernel that uses fp8e4nv, which Triton below 8.9 refuses",
        origin=f"{_V41}.common.ops",
        signatures=((),),
    ),
    _relied(
        f"{KEYS}:indexer_k_norm_rope_store",
        "the definition of what the entry above replaces",
        signatures=(_KEYS,),
        exact=True,
    ),
    _replaced(
        f"{ENGRAM}:ParallelEngramEmbedding.lookup",
        "reads rows of e4m3 by a Triton kernel that takes them as fp8e4nv, which Triton below 8.9 refuses",
        signatures=(("self", "indices", "out", "background"),),
        exact=True,
    ),
    _relied(
        f"{ENGRAM}:ParallelEngramEmbedding",
        "knows its table, the first row and the first column of its rank",
        kind="class",
        body=("def _storage(", "self.vocab_start_idx", "self.head_start", "self.part_n_hash_cols"),
    ),
    *(
        _relied(target, "vLLM's model class serves on 8.x, on what is replaced above", kind="class")
        for target in (
            f"{_V41}.nvidia.vl_model:DeepseekV41ForCausalLM",
            f"{_V41}.nvidia.dspark:DSparkDeepseekV4ForCausalLM",
        )
    ),
)


def replacements() -> list[Replacement]:
    """Import vLLM's modules, and return what serves in place of what the model, its engram and its mHC call."""
    from dsa_doctor.plugin.families.deepseek_v4_ops import PrenormGemm, fused_indexer_q_rope_quant
    from dsa_doctor.plugin.families.deepseek_v41_ops import indexer_k_norm_rope_store, lookup

    model, attention, engram = map(importlib.import_module, (MODEL, ATTENTION, ENGRAM))
    kernels = importlib.import_module(MHC_KERNELS)
    select = with_own_attention(model._select_dsv4_attn_cls, own_attention)
    return [
        *indexer_replacements(),
        (model, "_select_dsv4_attn_cls", select),
        (attention, "fused_indexer_q_rope_quant", fused_indexer_q_rope_quant),
        (attention, "indexer_k_norm_rope_store", indexer_k_norm_rope_store),
        (engram.ParallelEngramEmbedding, "lookup", lookup),
        (kernels, PRENORM_KERNEL, PrenormGemm()),
    ]


def own_attention() -> Any:
    """Return the attention class that serves DeepSeek-V4.1."""
    from dsa_doctor.plugin.families.deepseek_v41_attention import TritonDeepseekV41Attention

    return TritonDeepseekV41Attention


def refusals(vllm_config: Any) -> list[str]:
    """Return what of a server's configuration the family cannot be served with, one reason per entry."""
    from dsa_doctor.plugin.families.deepseek_v41_engram import engram_refusals

    return [*v4_refusals(vllm_config), *engram_refusals(vllm_config)]


FAMILY = Family(
    name="deepseek_v41",
    model_classes={
        "DeepseekV41ForCausalLM": f"{_MODELS}:DeepseekV41ForCausalLM",
        "DSparkV41DraftModel": f"{_MODELS}:DSparkDeepseekV4ForCausalLM",
    },
    patches=PATCHES,
    modules=(*INDEXER_MODULES, MODEL, ATTENTION, ENGRAM, MHC, MHC_KERNELS),
    replacements=replacements,
    head_sizes=(512,),
    owns_attention=True,
    refusals=refusals,
)
